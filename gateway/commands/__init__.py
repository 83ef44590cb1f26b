"""The sub-commands of `thalamus`, one a module; each exposes `command`."""
