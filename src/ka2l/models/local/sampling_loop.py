"""The sampling loop: prompts enter the batch, rows fork, finished rows leave, and waiting prompts take their place.

The tokens of each question are computed once, and all its answers are decoded from there, in one batch with those of
other questions. An answer does not depend on the other rows of the batch, except for the rounding of the last digits.
"""

from collections import Counter, deque
from collections.abc import Generator, Sequence

import torch

from ka2l.models.interface import Position, Usage
from ka2l.models.local.answer_tree import Question, Row, draws, grow, places
from ka2l.models.local.cache_slots import Slots
from ka2l.models.local.hidden_states import check_states, not_finite, to_numpy
from ka2l.models.local.memory_budget import Budget, is_out_of_memory
from ka2l.models.local.shared_prefix import SharedPrefix
from ka2l.models.local.token_draws import NotFiniteError, StopRule, draw


class Engine:
    """One call of `sample`; the model must use two-part attention while it runs.

    Args:
        prefix: the model, and the tokens that all prompts begin with.
        questions: what to answer, the shortest first, so that there is little padding.
        names: the question id of each prompt, for errors.
        rule: what ends an answer.
        max_new_tokens: most tokens of an answer.
        budget: how much is computed at once; halved when memory runs out.
        position: where to read hidden states; none: they are not read.
    """

    def __init__(
        self,
        prefix: SharedPrefix,
        questions: Sequence[Question],
        names: Sequence[str],
        rule: StopRule,
        *,
        max_new_tokens: int,
        budget: Budget,
        position: Position | None,
    ):
        self._prefix, self._names, self._rule = prefix, names, rule
        self._limit, self._budget, self._position = max_new_tokens, budget, position
        self._waiting = deque(questions)
        self._rows: list[Row] = []
        self._slots = Slots()
        # Columns that the current rows need in their slots.
        self._columns = 0
        self.usage = Usage()

    def run(self) -> Generator[Question | None, None, None]:
        """Yield each question when all its answers are there, and None after every pass."""
        # Slots of earlier calls are reused, because allocating new ones takes longer. There is no check whether any are
        # left: between the check and `pop` another worker could take the last ones.
        try:
            self._slots = self._prefix.spare.pop()
        except IndexError:
            self._slots = Slots()
        try:
            while self._waiting or self._rows:
                yield from self._work()
                yield None
        finally:
            self._prefix.spare.append(self._slots)

    def _work(self) -> list[Question]:
        """One pass; returns the questions it finished."""
        try:
            return self._admit() if self._has_room() else self._step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Without the traceback, whose frames refer to the tensors that must be freed.
            self._shrink(error.with_traceback(None))
            return []

    def _has_room(self) -> bool:
        """Whether waiting questions can enter the batch now."""
        if not self._waiting:
            return False
        columns = len(self._waiting[0].part) + self._limit
        # A much longer prompt waits until the slots are free, because it would make all of them as long.
        if self._rows and columns > 2 * self._columns:
            return False
        # Only half of the rows, because a prompt's row forks into several with the first token.
        return not self._rows or 2 * len(self._rows) < self._budget.rows_of(columns)

    def _admit(self) -> list[Question]:
        """Compute the prompts of waiting questions and draw the first token of their answers."""
        group = self._next_group()
        parts = [question.part for question in group]
        width, first = max(map(len, parts)), len(self._rows)
        columns = width + self._limit
        if not self._rows and not columns <= self._slots.columns <= 2 * columns:
            self._slots = Slots()
        self._columns = columns if not self._rows else max(columns, self._columns)
        self._slots.reserve(first + len(group), self._columns)
        done = self._prefix.prefill(parts, self._slots, first, self._position)
        if done.states is not None:
            layers = to_numpy(done.states)
            check_states(layers, [self._names[question.index] for question in group])
            for question, of_layers in zip(group, layers, strict=True):
                question.states = of_layers
        for _ in group:
            self._waiting.popleft()
        rows = [Row(q, list(q.temperatures), width - len(q.part), width) for q in group]
        self._grow([*self._rows, *rows], first, done.logits)
        self.usage += Usage(prompt=sum(map(len, parts)), prompt_saved=len(group) * len(self._prefix.tokens))
        return [question for question in group if question.is_done]

    def _next_group(self) -> list[Question]:
        """Waiting questions of similar length, at most as many as fit into a pass and into the free rows."""
        group: list[Question] = []
        for question in self._waiting:
            too_wide = (len(group) + 1) * len(question.part) > self._budget.tokens
            columns = len(question.part) + self._limit
            full = 2 * (len(self._rows) + len(group)) >= self._budget.rows_of(columns)
            much_longer = bool(group) and columns > 2 * (len(group[0].part) + self._limit)
            if group and (too_wide or full or much_longer):
                break
            group.append(question)
        return group

    def _step(self) -> list[Question]:
        """Decode one more token for every row; returns the questions that are finished."""
        used = max(row.end for row in self._rows) + 1
        logits = []
        for first in range(0, len(self._rows), self._budget.rows):
            rows = self._rows[first : first + self._budget.rows]
            tokens = [row.tokens[-1] for row in rows]
            starts, ends = [row.start for row in rows], [row.end for row in rows]
            logits.append(self._prefix.step(tokens, starts, ends, self._slots, first, used))
        samples, count = sum(len(row.samples) for row in self._rows), len(self._rows)
        stepped = {row.question.index: row.question for row in self._rows}
        # Nothing has changed so far, so a step that runs out of memory can be repeated.
        self._grow(self._rows, 0, torch.cat(logits) if len(logits) > 1 else logits[0])
        self.usage += Usage(decoded=count, decoded_saved=samples - count)
        return [question for question in stepped.values() if question.is_done]

    def _grow(self, rows: list[Row], first: int, logits: torch.Tensor) -> None:
        """Draw a token for every sample of `rows[first:]`, let rows fork or leave, and rearrange the slots."""
        at, temperatures, numbers = draws(rows[first:])
        try:
            tokens, logprobs = draw(logits, at, temperatures, numbers)
            self._slots.reserve(first + len(set(zip(at, tokens, strict=True))), self._columns)
            grown = grow(rows[first:], tokens, logprobs, self._rule, self._limit)
            unfinished = [*rows[:first], *grown.rows]
            new, targets, sources = places([*range(first), *(first + source for source in grown.sources)])
            self._slots.move(targets, sources)
        except NotFiniteError as error:
            name = self._names[rows[first + error.row].question.index]
            raise not_finite(name) from None
        except Exception as error:
            if is_out_of_memory(error):
                # Some answers are already stored and some slots moved, so these questions start again.
                self._restart(rows)
            raise
        self._rows = [row for _, row in sorted(zip(new, unfinished, strict=True), key=lambda pair: pair[0])]

    def _restart(self, rows: Sequence[Row]) -> None:
        """Put the questions of these rows back in front of the waiting ones, without answers."""
        again = {row.question.index: row.question for row in rows}
        for question in again.values():
            # The same random numbers will draw the same answers.
            question.answers.clear()
        self._waiting.extendleft(sorted(again.values(), key=lambda q: (-len(q.part), -q.index)))
        self._rows, self._slots = [], Slots()

    def _shrink(self, error: BaseException) -> None:
        """Halve the budget after memory ran out; questions that no longer fit wait again."""
        self._budget.halve(error)
        of_question = Counter(row.question.index for row in self._rows)
        kept: set[int] = set()
        room = self._budget.rows
        for index, count in of_question.items():
            if count <= room:
                kept.add(index)
                room -= count
        staying = [place for place, row in enumerate(self._rows) if row.question.index in kept]
        slots, rows = self._slots, self._rows
        self._restart([row for row in rows if row.question.index not in kept])
        try:
            slots.keep(staying)
        except Exception as another:
            if not is_out_of_memory(another):
                raise
            self._restart([rows[place] for place in staying])
            return
        self._rows, self._slots = [rows[place] for place in staying], slots
