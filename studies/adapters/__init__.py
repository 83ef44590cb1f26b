"""The bundled LoRA adapters: what they are taught, how they are trained, what they gain."""
