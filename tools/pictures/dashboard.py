# %%
import random
import threading
import time

import llmapi_kit as kit

server = kit.launch("pocket", max_slots=8)
# %%
board = kit.dashboard(server)


# %%
# Some work: a few clients that ask for answers of different lengths, with pauses
def work(number):
    random.seed(number)
    client = server.client()
    messages = [{"role": "user", "content": "Tell me about the sun."}]
    while server.is_running:
        length = random.randint(200, 1900)
        extra = {"ignore_eos": True}
        client.chat.completions.create(model="pocket", messages=messages, max_tokens=length, extra_body=extra)
        time.sleep(random.uniform(0, 4))


for number in range(14):
    threading.Thread(target=work, args=(number,), daemon=True).start()
