"""What tests share: models, bad inputs, builds of the native code, references."""
