"""Texts that help(), an editor and an error for a wrong argument show."""

from __future__ import annotations

import ast
import asyncio
import inspect
import pydoc
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from atlas_sdk import AsyncAtlas, Atlas, GuardOptions, InvalidInput, Options, Snapshot, User, _connect, topics
from atlas_sdk._namespaces import AsyncNamespace, Namespace, method
from atlas_sdk.guards import options as guard_options


class Runner:
    """A runner that refuses every plan."""

    retries = 0

    def run(self, plan: Any) -> Any:
        plan.close()
        raise AssertionError("a plan was made of wrong arguments")


def operations() -> Iterator[tuple[str, Callable[..., Any], Callable[..., Any]]]:
    """Yield the name of each operation, and its method on both clients."""
    runner: Any = Runner()
    for name in topics.__all__:
        kind = getattr(topics, name)
        if issubclass(kind, Namespace):
            for attribute in dir(kind):
                if isinstance(inspect.getattr_static(kind, attribute), method):
                    other = getattr(topics, f"Async{name}")
                    assert issubclass(other, AsyncNamespace)
                    yield f"{name}.{attribute}", getattr(kind(runner), attribute), getattr(other(runner), attribute)


OPERATIONS = list(operations())
IDS = [name for name, *_ in OPERATIONS]


def rendered(thing: object) -> str:
    return pydoc.render_doc(thing, renderer=pydoc.plaintext)


@pytest.mark.parametrize(("name", "blocking", "awaited"), OPERATIONS, ids=IDS)
def test_help_shows_the_result_and_not_the_plan(name: str, blocking: Any, awaited: Any) -> None:
    shown = inspect.signature(blocking)
    assert shown.return_annotation is not inspect.Signature.empty
    assert get_type_hints(blocking)["return"] in {shown.return_annotation, type(None)}
    assert "Generator" not in str(shown)
    assert inspect.signature(awaited) == shown
    assert inspect.iscoroutinefunction(awaited)
    assert not inspect.iscoroutinefunction(blocking)
    assert inspect.getdoc(blocking) == inspect.getdoc(awaited)


def test_help_of_an_operation_can_be_read() -> None:
    (blocking, awaited) = next(methods for name, *methods in OPERATIONS if name == "Memory.snapshot")
    for text, start in ((rendered(blocking), "snapshot("), (rendered(awaited), "async snapshot(")):
        signature, _, rest = text.partition("\n\n")[2].partition("\n")
        assert signature.startswith(f"{start}project: atlas_sdk.model.projects.Project, path: str | os.PathLike[str]")
        assert signature.endswith("-> atlas_sdk.model.memory.Snapshot | None")
        assert rest.strip().startswith("Append a version of a memory file")


def test_help_of_a_namespace_shows_methods() -> None:
    text = rendered(topics.Projects)
    assert "  create(self, user: atlas_sdk.model.users.User, *" in text
    assert "-> atlas_sdk.model.projects.Project\n" in text
    assert "Generator" not in text
    assert " |  Projects: the folders whose memory files are kept.\n" in text
    assert "\n |  async create(self, user: " in rendered(topics.AsyncProjects)
    assert "A restore cannot be part of a transaction" in rendered(topics.AsyncMemory)
    assert list(inspect.signature(topics.Memory.snapshot).parameters)[:3] == ["self", "project", "path"]
    assert get_type_hints(topics.Memory.snapshot)["return"] == Snapshot | None


def model_parameters() -> Iterator[tuple[str, Any, Any, str]]:
    """Yield each operation together with each of its parameters that takes an object of the model."""
    for name, blocking, awaited in OPERATIONS:
        hints = get_type_hints(blocking.__wrapped__)
        for parameter in inspect.signature(blocking).parameters:
            if any(kind.__module__.startswith("atlas_sdk.model.") for kind in kinds(hints.get(parameter))):
                yield name, blocking, awaited, parameter


def kinds(hint: Any) -> list[type]:
    parts = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    return [part for part in parts if inspect.isclass(part)]


MODEL_PARAMETERS = list(model_parameters())


def arguments(blocking: Any, wrong: str) -> dict[str, object]:
    """Return the arguments that an operation needs, with a wrong object for one parameter."""
    hints = get_type_hints(blocking.__wrapped__)
    given: dict[str, object] = {}
    for name, parameter in inspect.signature(blocking).parameters.items():
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            kind = kinds(hints[name])
            given[name] = kind[0].__new__(kind[0]) if kind else object()
    return {**given, wrong: object()}


@pytest.mark.parametrize(
    ("name", "blocking", "awaited", "wrong"), MODEL_PARAMETERS, ids=[f"{n}-{p}" for n, _, _, p in MODEL_PARAMETERS]
)
def test_a_wrong_object_is_refused_by_name(name: str, blocking: Any, awaited: Any, wrong: str) -> None:
    given = arguments(blocking, wrong)
    for call in (lambda: blocking(**given), lambda: asyncio.run(awaited(**given))):
        with pytest.raises(InvalidInput) as refused:
            call()
        assert refused.value.field == wrong
        assert str(refused.value).startswith(f"{wrong} must be ")
        assert str(refused.value).endswith(", not an object")


def test_there_are_parameters_to_check() -> None:
    assert len(MODEL_PARAMETERS) > 90


def test_an_id_in_the_place_of_an_object_is_refused() -> None:
    runner: Any = Runner()
    with pytest.raises(InvalidInput, match="^project must be a Project, not a UUID$"):
        topics.Memory(runner).snapshot(uuid.uuid4(), "CLAUDE.md", b"")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="^session must be a Session or a str, not None$"):
        topics.Sessions(runner).revoke(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Atlas, AsyncAtlas])
def test_an_option_that_does_not_exist_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInput, match="^there is no option 'hmoe'; did you mean home") as refused:
        kind.open(hmoe="/tmp/x")
    assert refused.value.field == "hmoe"
    with pytest.raises(InvalidInput, match="there are: home, attribution, "):
        kind.open("postgresql://db.example/atlas", zzz=1)


def options_of(module: ModuleType, name: str) -> list[str]:
    """Return the keys that the source of a TypedDict declares: at run time the class is only for help()."""
    (found,) = (node for node in ast.parse(inspect.getsource(module)).body if getattr(node, "name", None) == name)
    assert isinstance(found, ast.ClassDef)
    return [ast.unparse(line.target) for line in found.body if isinstance(line, ast.AnnAssign)]


@pytest.mark.parametrize(
    ("kind", "module"),
    [
        (Options, _connect),
        (GuardOptions, guard_options),
    ],
    ids=lambda kind: kind.__name__,
)
def test_help_of_options_shows_each_with_its_default_and_no_methods(kind: type, module: ModuleType) -> None:
    lines = rendered(kind).splitlines()
    told = [line.strip(" |").partition(":")[0] for line in lines if "; default " in line]
    assert told == options_of(module, kind.__name__)
    assert not [line for line in lines if "fromkeys" in line or "(self" in line]


def test_a_namespace_says_what_it_offers() -> None:
    runner: Any = Runner()
    assert repr(topics.Schema(runner)) == "<Schema: check, migrate, server, status>"
    assert isinstance(topics.AsyncSchema(runner), AsyncNamespace)
    assert repr(topics.AsyncSchema(runner)) == "<AsyncSchema: check, migrate, server, status>"


USER = User(
    id=uuid.UUID(int=7),
    email="ada@example.com",
    name="Ada",
    plan="free",
    email_verified=False,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    updated_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.mark.parametrize(("kind", "prefix"), [(topics.Quotas, ""), (topics.AsyncQuotas, "Async")])
def test_guards_say_what_they_are_for(kind: Any, prefix: str) -> None:
    quotas = kind(Runner())
    assert repr(quotas.guard(USER, tokens=10, cost="0.5")) == (
        f"<{prefix}Guard for ada@example.com: tokens=10, cost=0.5; new>"
    )
    assert repr(quotas.guard(lambda: USER)) == f"<{prefix}Guard for the user of each call: requests=1; new>"
    assert repr(quotas.slot(USER, holder="web-1")) == f"<{prefix}Slot for ada@example.com, held by web-1; new>"
    assert repr(quotas.lease(USER, tokens=10)) == f"<{prefix}Lease for ada@example.com; open>"


@pytest.mark.parametrize("kind", [topics.Quotas, topics.AsyncQuotas])
@pytest.mark.parametrize("method", ["guard", "slot", "lease"])
def test_guards_refuse_an_id_in_the_place_of_a_user(kind: Any, method: str) -> None:
    with pytest.raises(InvalidInput, match="^user must be a User, not a UUID$"):
        getattr(kind(Runner()), method)(USER.id)


def test_clients_say_what_they_are_connected_to(dsn: str) -> None:
    async def awaited() -> str:
        client = AsyncAtlas.open(dsn)
        assert repr(client) == "<AsyncAtlas, not connected>"
        async with client:
            return repr(client)

    with Atlas.open(dsn.replace("user=", "password=secret&user=")) as atlas:
        user = atlas.users.create("ada@example.com")
        shown = repr(atlas)
        assert repr(atlas.as_user(user)) == f"{shown[:-1]}, for user {user.id}>"
        with pytest.raises(InvalidInput, match="^user must be a User or a UUID, not a str$"):
            atlas.as_user(str(user.id))  # type: ignore[arg-type]
    assert shown.startswith("<Atlas of postgresql://atlas:***@/")
    assert "secret" not in shown
    assert asyncio.run(awaited()).startswith("<AsyncAtlas of postgresql:///")
