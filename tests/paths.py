"""Where the tests find the repository and its trained model."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "models" / "kjv"
