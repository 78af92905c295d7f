# %%
import os
import threading

os.environ["LLMAPI_KIT_DATABASE_URL"] = "sqlite://"  # only what is used here is in the picture

import llmapi_kit as kit
from llmapi_kit.server.server import Server
from llmapi_kit.tunnels.base import TunnelStatus

# No tunnel is opened for a picture: the public URL is made up, as its caption says.
PUBLIC_URL = "https://llm.example.com"
Server.public_url = PUBLIC_URL
Server.tunnel_status = lambda self, check=False: TunnelStatus("up", PUBLIC_URL)
Server.tunnel_kind = "cloudflared"
Server.can_reopen_tunnel = True

server = kit.launch("pocket", aliases={"gpt-4o": "pocket"})

# %%
keys = {name: server.keys.create(name).api_key for name in ("ada", "grace", "linus")}
server.keys.pause("linus")
server.invite("barbara")


def ask(name, max_tokens):
    with server.client(api_key=keys[name]) as client:
        client.completions.create(
            model="pocket", prompt="Once upon a time", max_tokens=max_tokens, extra_body={"ignore_eos": True}
        )


def keep_asking(name):
    while True:
        ask(name, 1500)


for name, max_tokens in (("ada", 180), ("ada", 160), ("grace", 150)):
    ask(name, max_tokens)
for name in ("ada", "ada", "grace"):
    threading.Thread(target=keep_asking, args=(name,), daemon=True).start()
