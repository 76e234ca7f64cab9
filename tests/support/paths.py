"""Where the tests find the repository and its trained model."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "models" / "kjv"
