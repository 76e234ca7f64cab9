"""Parts of scripts/release.py: the wheels with native libraries inside."""
