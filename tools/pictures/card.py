# %%
import llmapi_kit as kit

server = kit.launch("pocket", aliases={"gpt-4o": "pocket"})
