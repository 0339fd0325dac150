"""Route maps: what a request is, by its method and path (DESIGN §4).

- Of the routes that fit the most specific counts: segment by segment a text comes before a
  parameter, and that before the rest of a path. Of equal paths the request's own method comes
  before GET for a HEAD, and that before `*`; then what is for some hosts before what is for any;
  then the first by the map's name and the place in it.
- Texts are compared as they stand, upper and lower case apart; hosts and methods in any case.
- Where the agent chooses the host (`named`), only maps and routes that name hosts count: one that
  is for any host would give the same action to hosts that nobody thought of.
- A slash at the end of a path makes no difference: servers that tell the two apart are rare, and
  an agent could leave every route by writing one.

Routes stand in a tree of segments, so that a look-up costs what the path is long.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from authz.core.chain_compiled import CompiledRoute, CompiledRouteMap
from authz.core.chain_doc import Verification
from authz.core.pattern import compile_pattern, fold
from authz.core.remembered import MAX_REMEMBERED, Remembered
from authz.core.route_template import filled

#: The strictest first.
_VERIFICATIONS: Final[tuple[Verification, ...]] = ("strict", "warn", "off")
#: Requests that are remembered, and the longest path of one, characters.
MATCHES: Final = 1024
_PORT: Final = re.compile(r":[0-9]+\Z")


class Mapped(NamedTuple):
    """What a request is."""

    action: str
    #: Empty where the route does not say.
    resource: str
    map_name: str


class _Host(NamedTuple):
    """What the maps say about a host."""

    #: Its name without port, in lower case.
    name: str
    #: The maps for it, by their number.
    maps: frozenset[int]
    verification: Verification | None
    #: The first of them that denies what no route fits; empty where none does.
    denies: str
    #: Only routes that name hosts are for it.
    named: bool


class _Route(NamedTuple):
    """A route at its place in the tree; routes at one place have the same path."""

    #: In the order in which they are tried, but for the method.
    is_for_any_host: bool
    map_name: str
    place: int
    #: The map's number.
    number: int
    compiled: CompiledRoute
    #: Of the parameters' segments.
    positions: tuple[int, ...]
    #: It, or all that its map says of hosts, names some.
    names_hosts: bool


class _Node:
    """The routes whose path begins alike."""

    __slots__ = ("here", "literals", "parameter", "rest")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        #: Routes that end here, and those whose last parameter takes the rest from here on.
        self.here: list[_Route] = []
        self.rest: list[_Route] = []


class Routes:
    """All routes that are in force."""

    def __init__(self, documents: Iterable[CompiledRouteMap]) -> None:
        self._maps = sorted(documents, key=lambda document: document.name)
        self._map_hosts = [[compile_pattern(host) for host in m.hosts] for m in self._maps]
        self._root = _Node()
        self._hosts = Remembered(self._find_host)
        self._named_hosts = Remembered(self._find_named_host)
        self._matched: dict[tuple[str, str, str, bool], Mapped | None] = {}
        #: What a route's own pattern for hosts matches, each pattern compiled once.
        self._patterns = {
            route.host: compile_pattern(route.host)
            for document in self._maps
            for route in document.routes
            if route.host
        }
        for number, document in enumerate(self._maps):
            for place, route in enumerate(document.routes):
                self._add(number, document, place, route)
        _sort(self._root)

    def __bool__(self) -> bool:
        return bool(self._maps)

    def match(self, method: str, host: str, path: str, *, named: bool = False) -> Mapped | None:
        """What a request is; None where no route fits.

        Args:
            host: as the request, or the upstream's address, has it, with or without a port.
            path: decoded, without a query string, as the upstream will see it; with its first
                slash or without.
            named: the agent chose the host, so only routes count that name hosts.
        """
        key = (method, host, path, named)
        if key in self._matched:
            return self._matched[key]
        mapped = self._match(method, path, self._named_hosts(host) if named else self._hosts(host))
        if len(path) <= MAX_REMEMBERED:
            if len(self._matched) >= MATCHES:
                self._matched.clear()
            self._matched[key] = mapped
        return mapped

    def _match(self, method: str, path: str, host: _Host) -> Mapped | None:
        if not self._maps:
            return None
        inside = path.removeprefix("/").removesuffix("/")
        segments = inside.split("/") if inside else []
        method = method.upper()
        asked = (method, "GET") if method == "HEAD" else (method,)
        route = self._search(self._root, segments, 0, asked, host)
        return None if route is None else _mapped(route, segments)

    def verification(self, host: str) -> Verification | None:
        """The strictest that a map for this host asks for; None where none says anything."""
        return self._hosts(host).verification if self._maps else None

    def denies_unmapped(self, host: str) -> str:
        """The map that denies requests to this host that no route fits; empty where none does."""
        return self._hosts(host).denies if self._maps else ""

    def forget(self) -> None:
        """Drop what is remembered."""
        self._hosts.forget()
        self._named_hosts.forget()
        self._matched.clear()

    def _search(
        self, node: _Node, segments: Sequence[str], at: int, methods: Sequence[str], host: _Host
    ) -> _Route | None:
        if at == len(segments):
            return self._first(node.here, methods, host)
        segment = segments[at]
        if not segment:
            return None
        for below in (node.literals.get(segment), node.parameter):
            if below is not None:
                found = self._search(below, segments, at + 1, methods, host)
                if found is not None:
                    return found
        return self._first(node.rest, methods, host) if node.rest else None

    def _first(
        self, routes: Sequence[_Route], methods: Sequence[str], host: _Host
    ) -> _Route | None:
        """The first that fits, the request's own method before others."""
        fitting = [route for route in routes if self._is_for(route, host)]
        for method in methods:
            for route in fitting:
                if route.compiled.methods is not None and method in route.compiled.methods:
                    return route
        return next((route for route in fitting if route.compiled.methods is None), None)

    def _is_for(self, route: _Route, host: _Host) -> bool:
        own = route.compiled.host
        if host.named and not route.names_hosts:
            return False
        return route.number in host.maps and (not own or self._patterns[own](host.name))

    def _find_named_host(self, host: str) -> _Host:
        return self._find_host(host)._replace(named=True)

    def _find_host(self, host: str) -> _Host:
        name = _PORT.sub("", fold(host)).removesuffix(".")
        numbers = [
            number
            for number, patterns in enumerate(self._map_hosts)
            if not patterns or any(matches(name) for matches in patterns)
        ]
        said = {self._maps[number].verification for number in numbers}
        return _Host(
            name,
            frozenset(numbers),
            next((verification for verification in _VERIFICATIONS if verification in said), None),
            next((self._maps[n].name for n in numbers if self._maps[n].unmapped == "deny"), ""),
            named=False,
        )

    def _add(
        self, number: int, document: CompiledRouteMap, place: int, route: CompiledRoute
    ) -> None:
        template = route.template
        positions = tuple(at for at, text in enumerate(template.segments) if text is None)
        hosts = (*document.hosts, route.host) if route.host else document.hosts
        is_for_any_host = all(map(_is_any, hosts))
        names_hosts = (
            not _is_any(route.host)
            if route.host
            else bool(document.hosts) and not any(map(_is_any, document.hosts))
        )
        entry = _Route(is_for_any_host, document.name, place, number, route, positions, names_hosts)
        node = self._root
        for segment in template.segments[:-1] if template.has_rest else template.segments:
            if segment is not None:
                node = node.literals.setdefault(segment, _Node())
                continue
            if node.parameter is None:
                node.parameter = _Node()
            node = node.parameter
        (node.rest if template.has_rest else node.here).append(entry)


def _is_any(pattern: str) -> bool:
    """Whether a pattern for hosts is for every host."""
    return not pattern.strip().strip("*")


def _sort(root: _Node) -> None:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        # By the first three fields: no two routes have the same place in the same map.
        node.here.sort(key=lambda route: route[:3])
        node.rest.sort(key=lambda route: route[:3])
        waiting += node.literals.values()
        if node.parameter is not None:
            waiting.append(node.parameter)


def _mapped(route: _Route, segments: Sequence[str]) -> Mapped:
    compiled, positions = route.compiled, route.positions
    template = compiled.template
    values = {name: segments[at] for name, at in zip(template.names, positions, strict=True)}
    if template.has_rest:
        values[template.names[-1]] = "/".join(segments[positions[-1] :])
    return Mapped(
        filled(compiled.action, values), filled(compiled.resource, values), route.map_name
    )
