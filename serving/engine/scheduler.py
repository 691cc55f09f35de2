"""Which requests compute how many tokens in the next step.

Answers under way go before prompts, since somebody reads along; prompts are cut into chunks so that a step stays
within its budget of tokens. Among prompts, and among those who wait, a lower priority number goes first, then whom
somebody waits for (interactive before batch), then the team that got least so far (fairness.py), then who came
first. When the KV cache is full, the last in that order gives its blocks back and computes its tokens again later.
A batch request makes room for an interactive one; a team that waits with fewer places than its equal part gets one of
a team that has more, by preempting what came last there. While an interactive answer is under way, prompts are cut into
chunks that keep its tokens coming in time (pace.py). While the first token of an interactive request is at risk of
coming late, prompts of batch requests wait, whatever their priority.

A step may be planned while the one before it is still on the device (slices.py). No torch here.

    Scheduler   add, plan, settle, finish
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from serving.engine.fairness import FairShare
from serving.engine.kv_cache import BlockPool
from serving.engine.pace import Allow, IsAtRisk, no_deadline, no_limit
from serving.engine.prefix import PrefixNames
from serving.engine.request import EngineOverloaded, Objective
from serving.engine.slices import COMING, RequestState, Slice

Propose = Callable[[RequestState], Sequence[int]]
KindOfKeys = Callable[[int], bytes]


def no_drafts(_: RequestState) -> Sequence[int]:
    return ()


def one_kind(_: int) -> bytes:
    return b""


class Scheduler:
    """Every request that was added is waiting or running until finish() takes it out.

    propose        drafts for an answer under way: tokens that may come next.
    kind_of_keys   by a prompt's length: prompts share keys of equal beginnings only where it gives the same.
    is_at_risk     whether a first token may come late, after a wait in nanoseconds, with so many tokens to be read yet.
    pace           tokens of prompts beside so many answers that read so many keys. A block's worth is always computed:
                   whoever waits to be read gets on.
    """

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_batch_tokens: int,
        max_batch_requests: int,
        max_waiting: int,
        propose: Propose = no_drafts,
        kind_of_keys: KindOfKeys = one_kind,
        pace: Allow = no_limit,
        is_at_risk: IsAtRisk = no_deadline,
    ) -> None:
        self.pool = pool
        self._kind_of_keys = kind_of_keys
        self.fairness = FairShare()
        self.preemptions = 0
        self._names = PrefixNames(pool.block_tokens)
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_requests = max_batch_requests
        self._max_waiting = max_waiting
        self._propose = propose
        self._pace = pace
        self._is_at_risk = is_at_risk
        self._arrivals = 0
        self._waiting: dict[str, RequestState] = {}
        self._running: dict[str, RequestState] = {}

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting)

    def __iter__(self) -> Iterator[RequestState]:
        yield from self._running.values()
        yield from self._waiting.values()

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, state: RequestState) -> None:
        """Queue a request. Raises EngineOverloaded when max_waiting wait already, beside those that are about to begin."""
        free_places = max(self._max_batch_requests - len(self._running), 0)
        if len(self._waiting) >= self._max_waiting + free_places:
            raise EngineOverloaded(
                f"{len(self._waiting)} requests are waiting already, the most that may; try again later"
            )
        self._arrivals += 1
        state.arrival = self._arrivals
        self.fairness.enter(state.request.team)
        self._waiting[state.request_id] = state

    def finish(self, state: RequestState) -> None:
        """Take a request out and its blocks back. It must be in no step under way."""
        self.pool.release(state.request_id)
        self.fairness.leave(state.request.team)
        if self._running.pop(state.request_id, None) is None:
            del self._waiting[state.request_id]

    def plan(self, now_ns: int) -> list[Slice]:
        """The next step; empty when there is nothing to do before the steps under way are settled.

        Blocks for it are taken, and its tokens count as computed: call settle() when they are.
        """
        self._make_way()
        self._share_places()
        answering = sorted(self._answering(), key=self._turn)
        plan = _Plan(self._max_batch_tokens, self._max_batch_tokens - len(answering))
        for state in answering:
            self._add_answer(plan, state)
        self._keep_pace(plan)
        for state in self._prompts(now_ns):
            if plan.budget:
                self._add_prompt(plan, state)
        return [self._slice(state, tokens) for state, tokens in plan.parts.values()]

    def settle(self, part: Slice, rejected_tokens: int = 0) -> None:
        """A slice is done. rejected_tokens, at its end, turned out to be none of the answer's."""
        state = self._running.get(part.request_id) or self._waiting[part.request_id]
        state.steps -= 1
        if part.samples:
            state.coming_tokens -= 1
        if part.request_id in self._running:  # or a preemption took all of it away
            state.computed_tokens -= rejected_tokens
        state.known_tokens -= rejected_tokens

    def _turn(self, state: RequestState) -> tuple[int, bool, int, int]:
        """The lowest goes first."""
        request = state.request
        served = self.fairness.served(request.team)
        return request.priority, _is_batch(state), served, state.arrival

    def _prompts(self, now_ns: int) -> list[RequestState]:
        """In the order in which they are read. Batch ones come behind the last that is at risk, and whoever goes before it
        keeps its place."""
        ordered = sorted((*self._reading(), *self._ready_to_begin()), key=self._turn)
        places = enumerate(ordered)
        last = max((place for place, state in places if self._hurries(state, now_ns)), default=-1)
        hurried = [state for state in ordered[: last + 1] if not _is_batch(state)]
        others = [state for state in ordered[: last + 1] if _is_batch(state)]
        return [*hurried, *others, *ordered[last + 1 :]]

    def _hurries(self, state: RequestState, now_ns: int) -> bool:
        if _is_batch(state) or state.output_tokens:
            return False
        waited_ns = now_ns - state.request.arrived_ns
        return self._is_at_risk(waited_ns, len(state.token_ids) - state.computed_tokens)

    def _answering(self) -> list[RequestState]:
        return [state for state in self._running.values() if state.is_answering]

    def _make_way(self) -> None:
        """What runs for nobody in particular gives its place to those whom somebody waits for."""
        if not any(map(_is_batch, self._running.values())):
            return
        waiting = [state for state in self._ready_to_begin() if not _is_batch(state)]
        places = self._max_batch_requests - len(self._running)
        blocks = self.pool.free_blocks
        for state in sorted(waiting, key=self._turn):
            names = self._names_to_find(state)
            wanted = -(-len(state.token_ids) // self.pool.block_tokens) - self.pool.find(names)
            while not places or wanted > blocks:
                free_blocks = self.pool.free_blocks
                if not self._preempt_batch(state.request.priority):
                    return
                places += 1
                blocks += self.pool.free_blocks - free_blocks
            places -= 1
            blocks -= wanted

    def _preempt_batch(self, priority: int) -> bool:
        """Preempt the last of the batch requests that are no more urgent. False: there is none."""
        batch = [
            state
            for state in self._running.values()
            if _is_batch(state) and state.request.priority >= priority
        ]
        if batch:
            self._preempt(max(batch, key=self._turn))
        return bool(batch)

    def _share_places(self) -> None:
        """Preempt one request of a team that has more than its equal part of the places, for one of a team that has less and
        goes first. Who was preempted waits with its team at its part, so it takes nothing back."""
        teams = Counter(state.request.team for state in self._running.values())
        ready = self._ready_to_begin()
        part = self._max_batch_requests // max(
            len(teams.keys() | {s.request.team for s in ready}), 1
        )
        short = [state for state in ready if teams[state.request.team] < part]
        beyond = [s for s in self._running.values() if teams[s.request.team] > max(part, 1)]
        if not short or not beyond:
            return
        first, last = min(short, key=self._turn), max(beyond, key=self._turn)
        if self._turn(first) < self._turn(last) and not self._has_room(first):
            self._preempt(last)

    def _has_room(self, state: RequestState) -> bool:
        found = self.pool.find(self._names_to_find(state))
        wanted = -(-len(state.token_ids) // self.pool.block_tokens) - found
        return len(self._running) < self._max_batch_requests and wanted <= self.pool.free_blocks

    def _reading(self) -> list[RequestState]:
        return [state for state in self._running.values() if not state.is_answering]

    def _ready_to_begin(self) -> list[RequestState]:
        return [state for state in self._waiting.values() if not state.steps]

    def _add_answer(self, plan: "_Plan", state: RequestState) -> None:
        if state.request_id not in self._running or not (plan.budget and state.missing_tokens):
            return
        if not self._make_room(plan, state, state.computed_tokens + 1):
            return
        newest = state.token_ids[state.computed_tokens :] or [COMING]
        plan.add(state, [*newest, *self._drafts(plan, state)])

    def _keep_pace(self, plan: "_Plan") -> None:
        """Leave as much for prompts as those can wait for who read along."""
        answering = [state for state, _ in plan.parts.values()]
        if all(map(_is_batch, answering)):
            return
        context_tokens = sum(state.computed_tokens + 1 for state in answering)
        allowed = self._pace(len(answering), context_tokens)
        if allowed is not None:
            plan.budget = min(plan.budget, max(allowed, self.pool.block_tokens))

    def _drafts(self, plan: "_Plan", state: RequestState) -> Sequence[int]:
        """As many as the budget, the cache and what is left of the answer have room for."""
        if state.coming_tokens or not state.drafting:
            return ()
        most = min(plan.draft_budget, state.most_tokens - len(state.token_ids) - 1)
        drafts = self._propose(state)[: max(most, 0)]
        if not drafts or not self.pool.grow(state.request_id, len(state.token_ids) + len(drafts)):
            return ()
        plan.draft_budget -= len(drafts)
        return drafts

    def _add_prompt(self, plan: "_Plan", state: RequestState) -> None:
        if state.request_id in self._waiting and not self._begin_if_there_is_room(plan, state):
            return
        count = min(state.missing_tokens, plan.budget)
        if count and state.request_id in self._running:
            end = state.computed_tokens + count
            plan.add(state, state.token_ids[state.computed_tokens : end])
            plan.names.update(state.names[: -(-end // self.pool.block_tokens)])

    def _begin_if_there_is_room(self, plan: "_Plan", state: RequestState) -> bool:
        """Let a waiting request in. Once there is no room for one, nobody behind it is let in: the long would starve."""
        if plan.is_full:
            return False
        names = self._names_to_find(state)
        if plan.will_compute(names[self.pool.find(names) :]):
            return False
        plan.is_full = not self._begin(state, names)
        return not plan.is_full

    def _begin(self, state: RequestState, names: Sequence[bytes]) -> bool:
        """Blocks for all of its tokens at once: half a prompt in the cache would only be thrown out again."""
        if len(self._running) >= self._max_batch_requests:
            return False
        found = self.pool.begin(state.request_id, names, len(state.token_ids))
        if found is None:
            return False
        self._running[state.request_id] = self._waiting.pop(state.request_id)
        state.computed_tokens = found * self.pool.block_tokens
        if state.cached_tokens is None:
            state.cached_tokens = state.computed_tokens
        return True

    def _names_to_find(self, state: RequestState) -> Sequence[bytes]:
        """At least one token has to be computed, or there is nothing to choose the next one from."""
        if not self.pool.sharing:
            return ()
        self._name(state)
        return state.names[: (len(state.token_ids) - 1) // self.pool.block_tokens]

    def _name(self, state: RequestState) -> None:
        self._names.extend(state.names, state.token_ids, self._kind_of_keys(state.prompt_tokens))

    def _make_room(self, plan: "_Plan", state: RequestState, tokens: int) -> bool:
        """Find blocks for `tokens` tokens in all, preempting others for them. False: it went itself."""
        while not self.pool.grow(state.request_id, tokens):
            last = max(
                (other for other in self._running.values() if other.request_id not in plan.parts),
                key=self._turn,
            )
            self._preempt(last)
            if last is state:
                return False
        return True

    def _preempt(self, state: RequestState) -> None:
        self.pool.release(state.request_id)
        state.computed_tokens = 0
        state.preemptions += 1
        self.preemptions += 1
        self._waiting[state.request_id] = self._running.pop(state.request_id)

    def _slice(self, state: RequestState, token_ids: Sequence[int]) -> Slice:
        start = state.computed_tokens
        end = start + len(token_ids)
        known = len(state.token_ids) + state.coming_tokens
        is_decode = state.is_answering
        part = Slice(
            request_id=state.request_id,
            token_ids=tuple(token_ids),
            start=start,
            block_table=self.pool.table(state.request_id),
            samples=end >= known,
            is_decode=is_decode,
            sampling=state.request.sampling,
            seed=state.seed,
            position=state.output_tokens + state.coming_tokens,
            drafts=max(end - known, 0),
            history=tuple(state.token_ids) if state.request.sampling.needs_history else (),
            prompt_tokens=state.prompt_tokens,
            repeated_tokens=max(min(state.known_tokens, end) - start, 0),
        )
        self._launch(state, part)
        return part

    def _launch(self, state: RequestState, part: Slice) -> None:
        fresh = len(part.token_ids) - part.repeated_tokens
        self.fairness.serve(
            state.request.team,
            prefill_tokens=0 if part.is_decode else fresh,
            decode_tokens=fresh if part.is_decode else 0,
        )
        state.steps += 1
        state.coming_tokens += part.samples
        state.computed_tokens = part.end
        state.known_tokens = max(state.known_tokens, part.end)
        self._name_blocks(state)

    def _name_blocks(self, state: RequestState) -> None:
        """Whoever is planned later computes later, so whole blocks may be found from now on. Tokens that are not
        known yet, and drafts, have no names."""
        if self.pool.sharing:
            self._name(state)
            whole = state.computed_tokens // self.pool.block_tokens
            self.pool.name(state.request_id, state.names[:whole])


def _is_batch(state: RequestState) -> bool:
    return state.request.objective is Objective.BATCH


@dataclass(slots=True)
class _Plan:
    """A step in the making. budget and draft_budget are tokens; names are of blocks that it computes.

    is_full   somebody waits for room that there is not.
    """

    budget: int
    draft_budget: int
    is_full: bool = False
    parts: dict[str, tuple[RequestState, Sequence[int]]] = field(default_factory=dict)
    names: set[bytes] = field(default_factory=set)

    def add(self, state: RequestState, token_ids: Sequence[int]) -> None:
        self.parts[state.request_id] = state, token_ids
        self.budget -= len(token_ids)

    def will_compute(self, names: Sequence[bytes]) -> bool:
        """Whether the first of names is computed by this very step: who needs it finds it in the next one."""
        return bool(names) and names[0] in self.names
