"""Which layers LoRA adapts: the language model's, never the vision tower's."""

LANGUAGE_LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""`LoraConfig(target_modules=...)` for Qwen2-VL and Qwen2.5-VL: all linear layers of the language model.

A bare list of names such as `["gate_proj"]` would match the vision tower's layers of the same name, too. PEFT matches a
string against whole module names.
"""
