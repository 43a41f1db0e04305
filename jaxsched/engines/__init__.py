"""Engines side by side: the same model in plain Python, on XLA, compiled for a CPU, and softly."""
