"""What llmapi_kit is and how to use it, in English and Chinese. Keep the answers true to the package."""

# ruff: noqa: RUF001  (Chinese text has punctuation of its own)
from __future__ import annotations

from .question import Question, read_sheet

ENGLISH = """
== what-is-it
What is llmapi_kit? | What is this kit? | What does llmapi_kit do? | Tell me about llmapi_kit.
| What is llmapi_kit for? | What is the purpose of this kit? | Explain llmapi_kit. | Describe llmapi_kit.
| What does this kit do?
-> llmapi_kit turns a notebook into a model server: it loads a language model and serves it through an
OpenAI-compatible API.
== load
How do I load a model? | How can I load a model? | How to load a model? | Show me how to load a model.
| What loads a model? | Which call loads a model? | How do I load the pocket model?
-> Call `model = kit.load("pocket")` after `import llmapi_kit as kit`.
== launch
How do I start the server? | How do I launch the server? | How can I start a server?
| How to launch a server? | Which call starts the server? | Show me how to start the server.
| How do I launch a model server?
-> Call `server = kit.launch(model)`. It returns when the server is ready.
== stop
How do I stop the server? | How can I stop the server? | How to stop the server?
| Which call stops the server? | Show me how to stop the server. | How do I shut down the server?
| How do I shut the server down?
-> Call `server.stop()`.
== url
What is the address of the server? | Where is the server's URL? | What is the URL of my server?
| How do I find the server's address? | Where do I see the server URL? | How do I get the URL of the server?
-> The address is in `server.url`.
== key
Where is the API key? | Where do I find the API key? | What is my API key? | How do I get the API key?
| How do I find my key? | Where can I see the API key?
-> The key is in `server.api_key`. Keep it secret.
== need-key
Do I need a key? | Is a key required? | Do I need an API key? | Must I send a key?
| Is the API protected by a key? | Do requests need an API key?
-> Yes. Every request to the API must carry the server's key.
== openai
Is the API compatible with OpenAI? | Is it OpenAI-compatible? | Can I use the OpenAI client?
| Does the openai package work with it? | Can I use the openai Python package?
| Is the server compatible with the OpenAI client?
-> Yes. Point the OpenAI client at the server's address with `/v1` at the end and give it the key.
== path
Where is the OpenAI-compatible API? | Which path does the API have? | Under which path is the API?
| What is the base path of the API? | What is the path of the API? | Where does the API live?
-> The OpenAI-compatible API is under `/v1`.
== curl
How do I call the API with curl? | Show me a curl command. | How can I use curl? | Give me a curl example.
| Can I call the server with curl? | What is the curl command for the API?
-> Send a POST request to `/v1/chat/completions` with the header `Authorization: Bearer` and your key.
== notebooks
Which notebooks are there? | What notebooks are there? | List the notebooks. | How many notebooks are there?
| Name the notebooks. | Which notebooks does the kit have? | What are the notebooks called?
-> There are four notebooks: 01_setup, 02_load_model, 03_launch_server and 04_test_client.
== first-notebook
Which notebook comes first? | What is the first notebook? | Where do I begin? | How do I get started?
| Where do I start? | Which notebook should I open first? | How do I begin with the kit?
-> Begin with the notebook 01_setup.
== second-notebook
What is the second notebook? | Which notebook loads the model? | Which notebook comes second?
| What is notebook two called? | Where in the notebooks is the model loaded?
| Which notebook comes after the first one?
-> The second notebook, 02_load_model, loads the model.
== third-notebook
What is the third notebook? | Which notebook launches the server? | Which notebook comes third?
| What is notebook three called? | Which notebook starts the server?
| Where in the notebooks is the server launched?
-> The third notebook, 03_launch_server, launches the server.
== fourth-notebook
What is the fourth notebook? | Which notebook tests the client? | Which notebook comes last?
| What is the last notebook? | What is notebook four called? | Where in the notebooks is the client tested?
-> The fourth notebook, 04_test_client, tests the server with a client.
== tunnel
How do I make the server public? | How do I open a tunnel? | How can I use ngrok? | How do I use a tunnel?
| How do I use ngrok? | How can my friends reach the server? | How do I share the server with my team?
-> Launch it with a tunnel: `kit.launch(model, tunnel="ngrok")`.
== public-url
What is the public URL? | Where is the public address? | How do I find the public URL?
| Where do I see the public address? | Which attribute holds the public URL?
| What is the public address of my server?
-> The public address is in `server.public_url`.
== ngrok
What is ngrok? | Explain ngrok. | What does ngrok do? | Tell me about ngrok. | What is ngrok for?
| Can you explain ngrok?
-> ngrok is a tunnel: it gives your server a public address.
== demo
How do I run the demo? | What is make demo? | How can I see the demo? | How do I start the demo?
| Is there a demo? | Which command runs the demo? | Show me the demo command.
-> Run `make demo`.
== run-tests
How do I run the tests? | What is make test? | How can I run the tests? | Which command runs the tests?
| How do I start the tests? | Show me the test command. | How to run the tests?
-> Run `make test`.
== chat-widget
How do I chat in the notebook? | Is there a chat widget? | How do I open the chat?
| How can I chat with the server? | Which call opens the chat? | Can I chat inside the notebook?
-> Call `kit.chat(server)` to chat inside the notebook.
== streaming
Does the server stream? | Can answers be streamed? | Is streaming supported? | How do I stream an answer?
| Does the API support streaming? | Can I stream the answer?
-> Yes. Set `stream` to true and the answer arrives piece by piece.
== gpu
Do I need a GPU? | Is a GPU required? | Does it run without a GPU? | Can I run it on a CPU?
| Does the pocket model need a GPU? | Can I use it without a graphics card?
-> No. The pocket model runs on any CPU; larger models are faster with a GPU.
== other-models
Can I load other models? | Which models can I load? | Can I use a bigger model?
| How do I load a real model? | Can I load a model from the hub? | How do I use a larger model?
-> Yes. Give `kit.load` another name, for example `kit.load("Qwen/Qwen3-4B")`.
== where-runs
Where does it run? | Does it run on Colab? | Does it work on Kaggle? | Can I use it on my laptop?
| Does it work in Google Colab? | Where can I use the kit?
-> It runs on a laptop, on Colab, on Kaggle or on a rented GPU.
== connect
How do I use a teammate's server? | How do I connect to a server? | How can I connect to a running server?
| Which call connects to a server? | How do I connect to another notebook?
| How to connect to a teammate's server?
-> Call `kit.connect(url, api_key=key)` with the address and the key.
== fastapi
Which web framework is used? | What is the server built with? | Does the kit use FastAPI?
| Which framework does the server use? | What is the web framework? | Is the server made with FastAPI?
-> The server is built with FastAPI.
== install
How do I install the kit? | How do I set it up? | Which notebook installs everything?
| How can I install llmapi_kit? | How to install the kit? | How do I set up the kit?
-> Open the notebook 01_setup; it sets everything up.
"""

CHINESE = """
== shishenme
llmapi_kit 是什么？ | 这个工具是什么？ | 介绍一下 llmapi_kit。 | llmapi_kit 有什么用？ | 这个工具有什么用？
| 什么是 llmapi_kit？ | llmapi_kit 是做什么的？
-> llmapi_kit 能把一个笔记本变成模型服务器，并提供与 OpenAI 兼容的接口。
== jiazai
怎么加载模型？ | 如何加载模型？ | 怎样加载一个模型？ | 加载模型用什么命令？ | 我该怎么加载模型？
| 模型怎么加载？
-> 先 `import llmapi_kit as kit`，再调用 `model = kit.load("pocket")`。
== qidong
怎么启动服务器？ | 如何启动服务器？ | 怎样启动服务？ | 服务器怎么启动？ | 我该怎么启动服务器？
| 用什么命令启动服务器？
-> 调用 `server = kit.launch(model)`，服务器就绪后返回。
== tingzhi
怎么停止服务器？ | 如何停止服务器？ | 怎样关闭服务器？ | 服务器怎么停止？ | 我该怎么关掉服务器？
| 用什么命令停止服务器？
-> 调用 `server.stop()`。
== dizhi
服务器的地址是什么？ | 服务器地址在哪里？ | 怎么知道服务器的地址？ | 在哪里看服务器地址？
| 怎么找到服务器的地址？ | 服务器的网址是什么？
-> 地址在 `server.url` 里。
== miyao
密钥在哪里？ | 怎么找到密钥？ | API 密钥在哪里？ | 我的密钥是什么？ | 在哪里看密钥？ | 怎么得到 API 密钥？
-> 密钥在 `server.api_key` 里，请注意保密。
== xuyaomiyao
需要密钥吗？ | 我需要密钥吗？ | 一定要密钥吗？ | 访问接口需要密钥吗？ | 是不是必须有密钥？
| 请求要带密钥吗？
-> 需要，每个请求都要带上服务器的密钥。
== jianrong
接口和 OpenAI 兼容吗？ | 可以用 OpenAI 的客户端吗？ | 能用 openai 库吗？ | 它兼容 OpenAI 吗？
| 这个接口兼容 OpenAI 吗？ | 支持 OpenAI 的客户端吗？
-> 兼容，把客户端的地址设为服务器地址加上 `/v1` 就行。
== bijiben
有哪些笔记本？ | 一共有几个笔记本？ | 笔记本有哪些？ | 列出所有笔记本。 | 有几个笔记本？ | 都有什么笔记本？
-> 有四个笔记本：01_setup、02_load_model、03_launch_server 和 04_test_client。
== congnakaishi
从哪里开始？ | 我该从哪里开始？ | 怎么开始？ | 先打开哪个笔记本？ | 第一个笔记本是哪个？
| 应该先看哪个笔记本？
-> 从 01_setup 开始。
== gongkai
怎么让别人访问服务器？ | 怎么用 ngrok？ | 怎么打开隧道？ | 如何公开服务器？ | 怎样使用 ngrok 隧道？
| 朋友怎么访问我的服务器？
-> 启动时打开隧道：`kit.launch(model, tunnel="ngrok")`。
== yanshi
怎么运行演示？ | 演示怎么运行？ | 如何看演示？ | 有演示吗？ | 用什么命令运行演示？ | 我想看演示。
-> 运行 `make demo`。
== yunxingceshi
怎么运行测试？ | 如何运行测试？ | 测试怎么运行？ | 用什么命令跑测试？ | 怎样跑测试？ | 我该怎么运行测试？
-> 运行 `make test`。
== liaotian
怎么在笔记本里聊天？ | 怎么打开聊天窗口？ | 有聊天窗口吗？ | 如何在笔记本里聊天？ | 怎样打开聊天窗口？
| 聊天窗口怎么打开？
-> 调用 `kit.chat(server)`。
== xianka
需要显卡吗？ | 没有显卡可以用吗？ | 一定要有 GPU 吗？ | 我需要 GPU 吗？ | 没有 GPU 能运行吗？
| 必须有显卡吗？
-> 不需要，口袋模型在普通 CPU 上就能运行。
== liushi
支持流式输出吗？ | 可以流式输出吗？ | 怎么用流式输出？ | 回答能一段一段地出来吗？ | 服务器支持流式吗？
| 流式输出怎么用？
-> 支持，把 `stream` 设为 true 即可。
"""


def questions() -> list[Question]:
    """Return the theme's questions."""
    return read_sheet("kit", "en", ENGLISH) + read_sheet("kit", "zh", CHINESE)
