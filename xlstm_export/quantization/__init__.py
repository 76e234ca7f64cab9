"""Bundle → bundle with weights in 8 or 4 bits: standard QDQ, block by block, tensor by tensor."""
