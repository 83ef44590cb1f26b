"""Local experts that share memory, simulated: requests of a trace, served under one scheme or another."""
