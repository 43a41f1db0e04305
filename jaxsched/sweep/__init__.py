"""Figures and the command of sweeps."""
