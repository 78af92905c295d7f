"""Bot types: names that older clients know, and which model of this server answers for each.

Without a setting a bot goes to a model that was made for nothing else, such as an embedding model; then to the
server's default model where that can do what the bot needs, else to the first model that can; no other model than the
default is loaded to find that out. The setting `bots` maps bot types, known ones and new ones, to models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.errors import BotTypeError, BotUnavailableError, ConfigError, InvalidRequestError, NotFoundError
from llmapi_kit.sessions.steps import PromptStep, ReplyStep, make_step

Kind = Literal["chat", "completion", "embedding", "image", "echo"]
# What an engine must be able to do; an echo needs none
CAPABILITY: Mapping[Kind, str] = {
    "chat": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "image": "images",
}
KINDS_OF_TEXT = ("chat", "completion", "echo")
FIELDS = ("model", "kind", "system", "pre", "post")


@dataclass(frozen=True, slots=True)
class Bot:
    """A bot type.

    Attributes:
        type: its name on the wire.
        kind: what it does with a prompt: answer in a conversation, continue a text, embed it, draw it, or repeat it.
        model: who answers; empty for the first model that can.
        family: a word that must be in the name of the model, or of its provider, where `model` is empty.
        system: what each conversation begins with, unless a session says otherwise.
        pre: steps that a prompt passes.
        post: steps that a reply passes.
        retired: why nothing answers for it any more; empty where something may.
    """

    type: str
    kind: Kind
    model: str = ""
    family: str = ""
    system: str = ""
    pre: tuple[PromptStep, ...] = ()
    post: tuple[ReplyStep, ...] = ()
    retired: str = ""

    @property
    def is_textual(self) -> bool:
        """Whether its reply is text that it makes piece by piece."""
        return self.kind in KINDS_OF_TEXT


KNOWN = (
    Bot("mock", "echo"),
    Bot("chatgpt", "chat"),
    Bot("gpt3", "completion"),
    Bot("gpt-embedding", "embedding"),
    Bot("dall-e", "image"),
    Bot("welm", "completion", family="welm"),
    Bot("newbing", "chat", retired="The unofficial API of New Bing is retired"),
)


class Bots:
    """The bot types of one server.

    Args:
        setting: see `llmapi_kit.config.Settings.bots`.

    Raises:
        ConfigError: it names a field or a step that there is none of.
    """

    def __init__(self, setting: Mapping[str, Any]) -> None:
        self._bots = {bot.type: bot for bot in KNOWN}
        for bot_type, given in setting.items():
            self._bots[bot_type] = _configured(bot_type, self._bots.get(bot_type), given)

    def get(self, bot_type: str) -> Bot:
        """The bot of a type.

        Raises:
            BotTypeError: there is none.
        """
        if bot_type not in self._bots:
            raise BotTypeError(f"There is no bot {bot_type[:80]!r} here. This server has: {', '.join(self._bots)}.")
        return self._bots[bot_type]


async def engine_of(bot: Bot, model: str, catalog: Catalog) -> Engine:
    """Who answers for a bot that is not an echo.

    Args:
        bot: which.
        model: what its session asked for; empty for the bot's own.
        catalog: the models of this server.

    Raises:
        InvalidRequestError: the session's model is not served here, or can't do what the bot needs.
        BotUnavailableError: nothing here can answer for the bot; says what to configure.
    """
    if model:
        return await _asked_for(bot, model, catalog)
    configure = f'Map it to a model that can: LLMAPI_KIT_BOTS=\'{{"{bot.type}": "<name of the model>"}}\'.'
    if bot.retired:
        raise BotUnavailableError(f"{bot.retired}. {configure}")
    capability = CAPABILITY[bot.kind]
    if bot.model:
        try:
            engine = await catalog.find(bot.model)
        except NotFoundError as exc:
            raise BotUnavailableError(f"The bot {bot.type!r} is mapped to a model that is not here. {exc}") from exc
        if capability not in engine.info.capabilities:
            raise BotUnavailableError(f"{_cannot(bot, engine)} The setting bots maps it there.")
        return engine
    if not bot.family and (special := catalog.made_for(capability)) is not None:
        return await catalog.find(special.info.id)
    if not catalog.get(None).info.capabilities:  # the default, not loaded yet
        await catalog.find(None)
    for candidate in catalog.listed():
        info = candidate.info
        if bot.family in f"{info.id} {info.owned_by}".lower() and capability in info.capabilities:
            return await catalog.find(info.id)
    needed = f"of {bot.family!r} that can do" if bot.family else "that can do"
    unknown = [candidate.info.id for candidate in catalog.listed() if not candidate.info.capabilities]
    hint = f" What these can do is known once they are loaded: {', '.join(unknown)}." if unknown else ""
    raise BotUnavailableError(f"The bot {bot.type!r} needs a model {needed} {capability!r}. {configure}{hint}")


async def _asked_for(bot: Bot, model: str, catalog: Catalog) -> Engine:
    try:
        engine = await catalog.find(model)
    except NotFoundError as exc:
        raise InvalidRequestError(f"settings.model: {exc}", param="settings.model") from exc
    if CAPABILITY[bot.kind] not in engine.info.capabilities:
        raise InvalidRequestError(f"settings.model: {_cannot(bot, engine)}", param="settings.model")
    return engine


def _cannot(bot: Bot, engine: Engine) -> str:
    needed = CAPABILITY[bot.kind]
    return f"The bot {bot.type!r} needs a model that can do {needed!r}; {engine.info.id!r} can't."


def _configured(bot_type: str, known: Bot | None, given: object) -> Bot:
    """A bot as the setting has it; what that leaves out is as before."""
    where = f"Setting bots: {bot_type!r}"
    bot = known or Bot(bot_type, "chat")
    if not bot_type or len(bot_type) > 64:
        raise ConfigError(f"{where} is not a name of 1 to 64 characters.")
    fields = {"model": given} if isinstance(given, str) else given
    if not isinstance(fields, Mapping):
        raise ConfigError(f"{where} is {given!r}; it takes a model's name, or an object of {', '.join(FIELDS)}.")
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ConfigError(f"{where} has {unknown[0]!r}; it takes {', '.join(FIELDS)}.")
    for name in ("model", "system", "kind"):
        if not isinstance(fields.get(name, ""), str):
            raise ConfigError(f"{where}: {name} is {fields[name]!r}, which is not text.")
    kind = fields.get("kind", bot.kind)
    if kind not in get_args(Kind):
        raise ConfigError(f"{where}: kind is {kind!r}; it takes {', '.join(get_args(Kind))}.")
    if kind == "echo" and fields.get("model"):
        raise ConfigError(f"{where} repeats what is said and has no model; give it a kind as well.")
    pre = tuple(_steps(fields, "pre", PromptStep, where))
    post = tuple(_steps(fields, "post", ReplyStep, where))
    configured = replace(
        bot, kind=kind, model=fields.get("model", ""), system=fields.get("system", ""), pre=pre, post=post
    )
    if (configured.post or configured.system) and not configured.is_textual:
        raise ConfigError(f"{where} replies with no text: {'post' if post else 'system'} has nothing to do there.")
    return replace(configured, retired="", family="") if configured.model else configured


def _steps(fields: Mapping[str, Any], name: str, protocol: type, where: str) -> list[Any]:
    specs = fields.get(name, [])
    if not isinstance(specs, list):
        raise ConfigError(f"{where}: {name} is a list of steps.")
    steps = []
    for i, spec in enumerate(specs):
        step = make_step(spec, f"{where}: {name}.{i}")
        if not isinstance(step, protocol):
            needed = "rewrite()" if protocol is PromptStep else "reply_filter()"
            raise ConfigError(f"{where}: {name}.{i} makes a {type(step).__name__}, which has no {needed}.")
        steps.append(step)
    return steps
