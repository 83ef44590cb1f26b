"""Offline: probes, grading, replay, reports. Imports nothing heavy."""
