# %%
import os

os.environ["HF_HOME"] = "/home/me/.cache/huggingface"  # nothing is in it, and nobody's name
# %%
import llmapi_kit as kit

choice = kit.choose()
