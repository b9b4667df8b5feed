"""Through everything that can happen, fewest faults first, then breadth first: the first broken law found is at the
end of a way with as few faults, and as short, as there is.

A state is met again with another budget left. Who has more left of everything can do all that the other can, so only
the largest budgets of a state are followed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.exhaustive.small_laws import broken, unsettled
from tests.exhaustive.small_world import Action, BrokenLawError, Budget, Rules, State, begin, fair_successor, successors

SETTLING_TURNS_MAX = 64  # a handoff has seven messages; twice that with everything asked again
FAULTS = frozenset({"crashes", "losses", "duplicates", "damages"})


@dataclass
class Found:
    """What a search came to; ``law`` is empty when every state is good."""

    states: int = 0
    transitions: int = 0
    is_complete: bool = False
    law: str = ""
    way: tuple[Action, ...] = ()
    rest: tuple[Action, ...] = ()
    reached: frozenset[State] = frozenset()

    def story(self) -> str:
        """The counterexample, one action a line."""
        lines = [f"broken after {len(self.way)} actions: {self.law}"]
        lines += [f"{number:3}  {' '.join(filter(None, action))}" for number, action in enumerate(self.way, start=1)]
        if self.rest:
            lines += ["     and from here, without another fault:"]
            lines += [f"     {' '.join(filter(None, action))}" for action in self.rest]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class _Node:
    """A state with a budget, and how it was come by."""

    state: State
    budget: Budget | None
    before: _Node | None = None
    action: Action = ()

    def way(self) -> tuple[Action, ...]:
        way = []
        node: _Node | None = self
        while node is not None and node.before is not None:
            way.append(node.action)
            node = node.before
        return tuple(reversed(way))


def search(rules: Rules, budget: Budget | None, *, handoffs: int = 1, checks_rest: bool = True) -> Found:
    """Walk through every reachable state, or to the first that breaks a law. No budget: the open world.

    ``checks_rest`` off leaves out whether each state settles; a mistake is then found where it does its harm.
    """
    first = _Node(begin(handoffs=handoffs, strategy=rules.strategy), budget)
    budgets: dict[State, list[Budget | None]] = {first.state: [budget]}
    settling: dict[State, bool] = {}
    levels: list[deque[_Node]] = [deque([first])]  # one queue per number of faults so far
    transitions = level = 0

    def found(node: _Node, law: str, *last: Action, rest: tuple[Action, ...] = ()) -> Found:
        return Found(len(budgets), transitions, law=law, way=(*node.way(), *last), rest=rest)

    while level < len(levels):
        if not levels[level]:
            level += 1
            continue
        node = levels[level].popleft()
        if problem := next(broken(node.state), ""):
            return found(node, problem)
        if checks_rest:
            problem, rest = _settles(rules, node.state, settling)
            if problem:
                return found(node, problem, rest=rest)
        try:
            for action, spent, after in successors(rules, node.state, node.budget):
                transitions += 1
                left, cost = _spend(node.budget, spent)
                known = budgets.get(after)
                if known is None:
                    budgets[after] = [left]
                elif any(_covers(other, left) for other in known):
                    continue
                else:
                    known[:] = [other for other in known if not _covers(left, other)] + [left]
                while level + cost >= len(levels):
                    levels.append(deque())
                levels[level + cost].append(_Node(after, left, node, action))
        except BrokenLawError as exc:
            return found(node, str(exc), exc.action)
    return Found(len(budgets), transitions, is_complete=True, reached=frozenset(budgets))


def _spend(budget: Budget | None, spent: str) -> tuple[Budget | None, int]:
    names = spent.split()
    if budget is None or not names:
        return budget, len(FAULTS.intersection(names))
    left = budget._replace(**{name: getattr(budget, name) - 1 for name in names})
    return left, len(FAULTS.intersection(names))


def _covers(more: Budget | None, less: Budget | None) -> bool:
    return more is None or less is None or all(a >= b for a, b in zip(more, less, strict=True))


def _settles(rules: Rules, state: State, known: dict[State, bool]) -> tuple[str, tuple[Action, ...]]:
    """Follow the world without any more faults to its rest; say what is wrong with that, or that there is none.

    Twice: with all that is in flight, and with none of it.
    """
    for start in {state, state._replace(network=frozenset())}:
        problem, way = _comes_to_rest(rules, start, known)
        if problem:
            return problem, way
    return "", ()


def _comes_to_rest(rules: Rules, state: State, known: dict[State, bool]) -> tuple[str, tuple[Action, ...]]:
    met: list[State] = []
    way: list[Action] = []
    current: State | None = state
    while current is not None and current not in known:
        met.append(current)
        known[current] = False
        try:
            step = fair_successor(rules, current)
        except BrokenLawError as exc:
            return str(exc), tuple(way)
        if step is None and (problem := unsettled(current, strategy=rules.strategy)):
            return problem, tuple(way)
        current = None
        if step is not None:
            way.append(step[0])
            current = step[1]
    if current is not None and not known[current]:
        return "without any more faults it never comes to rest", tuple(way)
    if len(met) > SETTLING_TURNS_MAX:
        return f"it takes more than {SETTLING_TURNS_MAX} turns without a fault to come to rest", tuple(way)
    known.update(dict.fromkeys(met, True))
    return "", ()
