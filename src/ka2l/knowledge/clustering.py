"""Semantic clusters: which of a question's answers mean the same.

`lexical` puts answers together that are equal after SQuAD normalisation. `nli` puts them together where each entails
the other in the question's context (Kuhn et al., arXiv 2302.09664), first match against one answer per cluster, in
the order of the answers, asking only about distinct, still unassigned ones.
"""

from collections.abc import Callable, Sequence

from ka2l.text import normalize_answer

Entails = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]


def cluster_lexical(answers: Sequence[str]) -> list[int]:
    """Cluster number of each answer, numbered by first appearance."""
    seen: dict[str, int] = {}
    return [seen.setdefault(normalize_answer(answer), len(seen)) for answer in answers]


def cluster_nli(
    questions: Sequence[str], answers: Sequence[Sequence[str]], entails: Entails
) -> list[list[int]]:
    """Clusters of many questions at once, by strict two-way entailment.

    All questions advance together, so each call of `entails` is one large batch: round r asks every question about
    its r-th cluster. An answer joins the first cluster whose founder it entails and is entailed by; the reverse
    direction is asked only where the forward one held. Only founders are compared, so where A and B both match C but
    not each other, the order decides: C first gives {A, B, C}, A first gives {A, C} and {B}.

    Args:
        questions: one text per question.
        answers: the answers of each.
        entails: (premise, hypothesis) pairs → whether the first entails the second.

    Returns:
        the cluster number of each answer, per question, numbered by first appearance.
    """
    distinct = [list(dict.fromkeys(answer.strip() for answer in group)) for group in answers]
    assigned: list[dict[str, int]] = [{} for _ in distinct]
    clusters = 0
    while any(len(done) < len(group) for done, group in zip(assigned, distinct, strict=True)):
        pairs, owners = [], []
        for index, (done, group) in enumerate(zip(assigned, distinct, strict=True)):
            waiting = [answer for answer in group if answer not in done]
            if not waiting:
                continue
            founder, *others = waiting
            done[founder] = clusters
            pairs += [
                (_context(questions[index], founder), _context(questions[index], other)) for other in others
            ]
            owners += [(index, other) for other in others]
        forward = entails(pairs) if pairs else []
        hits = [i for i, held in enumerate(forward) if held]
        backward = entails([(pairs[i][1], pairs[i][0]) for i in hits]) if hits else []
        for i, held in zip(hits, backward, strict=True):
            if held:
                index, answer = owners[i]
                assigned[index][answer] = clusters
        clusters += 1
    return [[done[a.strip()] for a in group] for done, group in zip(assigned, answers, strict=True)]


def _context(question: str, answer: str) -> str:
    """The NLI input is question and answer together (paper, Section 3.2.2)."""
    return f"{question.strip()} {answer}"
