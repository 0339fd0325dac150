"""What the package has for those who import it, and which tests drive it."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from types import CodeType, ModuleType
from typing import Any, Final, TypeVar

import meshguard

#: Every public name, with the parameters it takes: CONTRACT's `[py]` rows are these calls.
SURFACE: Final[dict[str, str]] = {
    "PolicyDecision": "allowed action decision policy= rule= reason= trace_id=",
    "Agent": "id name trust_tier tags= org_id=",
    "MeshGuardClient": "gateway_url= agent_token= admin_token= timeout= trace_id=",
    "MeshGuardClient.check": "self action resource=",
    "MeshGuardClient.enforce": "self action resource=",
    "MeshGuardClient.govern": "self action resource=",
    "MeshGuardClient.request": "self method path action **kwargs",
    "MeshGuardClient.get": "self path action **kwargs",
    "MeshGuardClient.post": "self path action **kwargs",
    "MeshGuardClient.put": "self path action **kwargs",
    "MeshGuardClient.delete": "self path action **kwargs",
    "MeshGuardClient.health": "self",
    "MeshGuardClient.is_healthy": "self",
    "MeshGuardClient.list_agents": "self",
    "MeshGuardClient.create_agent": "self name trust_tier= tags=",
    "MeshGuardClient.revoke_agent": "self agent_id",
    "MeshGuardClient.list_policies": "self",
    "MeshGuardClient.get_audit_log": "self limit= decision=",
    "MeshGuardClient.close": "self",
    "MeshGuardClient.__enter__": "self",
    "MeshGuardClient.__exit__": "self *args",
    "GovernedContext": "client action resource=",
    "GovernedContext.__enter__": "self",
    "GovernedContext.__exit__": "self *args",
    "MeshGuardError": "as Exception",
    "AuthenticationError": "as MeshGuardError",
    "PolicyDeniedError": "action policy= rule= reason=",
    "RateLimitError": "as MeshGuardError",
    "governed_tool": "action client= on_deny=",
    "GovernedTool": "tool action client= on_deny=",
    "GovernedTool.run": "self *args **kwargs",
    "GovernedTool.arun": "self *args **kwargs",
    "GovernedTool.__call__": "self *args **kwargs",
    "GovernedToolkit": "tools client= action_map= default_action= on_deny=",
    "GovernedToolkit.get_action": "self tool",
    "GovernedToolkit.get_tools": "self",
    "create_governed_agent": "llm tools client= action_map= agent_type= **kwargs",
}

Test = TypeVar("Test", bound=Callable[..., Any])


def drives(*names: str) -> Callable[[Test], Test]:
    """Say what of the package a test calls."""
    unknown = set(names) - set(SURFACE)
    assert not unknown, f"the package has no {unknown}"

    def mark(test: Test) -> Test:
        test.drives = names  # type: ignore[attr-defined]
        return test

    return mark


def driven(test: object) -> tuple[str, ...]:
    """What a test says it calls."""
    return getattr(test, "drives", ())


def modules() -> list[ModuleType]:
    """The package and every module of it."""
    inside = pkgutil.walk_packages(meshguard.__path__, f"{meshguard.__name__}.")
    return [meshguard, *(importlib.import_module(found.name) for found in inside)]


@functools.cache
def found() -> dict[str, Any]:
    """What there is, by name: classes, functions, and of classes what is their own."""
    return {
        name: there
        for module in modules()
        for called, one in vars(module).items()
        if not called.startswith("_") and getattr(one, "__module__", "") == module.__name__
        for name, there in ((called, one), *_members(called, one))
    }


def code_of(name: str) -> CodeType | None:
    """What runs when it is called; None for a class that adds nothing to the class it is of."""
    one = found()[name]
    if inspect.isclass(one):
        one = vars(one).get("__init__")
    one = getattr(one, "fget", one)
    return getattr(inspect.unwrap(one), "__code__", None) if one else None


def parameters(name: str) -> str:
    """As they stand in `SURFACE`: one with a default ends in `=`."""
    one = found()[name]
    if isinstance(one, property):
        return "property"
    if inspect.isclass(one) and code_of(name) is None:
        return f"as {one.__mro__[1].__name__}"
    marks: dict[object, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    return " ".join(
        marks.get(one.kind, "") + one.name + ("=" if one.default is not one.empty else "")
        for one in inspect.signature(one).parameters.values()
    )


def _members(called: str, one: Any) -> Iterator[tuple[str, Any]]:
    if not inspect.isclass(one):
        return
    # What a dataclass is given beside its constructor has no source of its own.
    source = getattr(inspect.getmodule(one), "__file__", None)
    for name, member in vars(one).items():
        plain = getattr(member, "__func__", member)
        file = getattr(getattr(plain, "__code__", None), "co_filename", None)
        special = name.startswith("_") and (name == "__init__" or file != source)
        private = name.startswith("_") and not name.startswith("__")
        if (inspect.isfunction(plain) or isinstance(plain, property)) and not (special or private):
            yield f"{called}.{name}", plain
