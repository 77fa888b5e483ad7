"""Cloze questions: a word of a held-out sentence is blanked, and the model has to prefer it among four.

The four words of a question are alike: same pattern of capitals, lengths within two characters, frequencies in the text
within a factor of two. Which of them is the true one is drawn last, from words that could each have been it. So no
score that knows the four words but not the sentence can be right in more than a quarter of the questions, on average
over the draws: what is above 25 % is the context's.

A candidate's score is the log likelihood of the whole sentence with it, in nats, summed over all tokens after the start
token: what follows the blank counts as well, and tokenizers that cut words differently are compared on the same text.
Of words that score exactly alike, as those with equal rows do, the first of the alphabet is taken: a fair guess, as the
place of the true one is drawn.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from clp_core.checkpoints.finite import scores_error
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import LOGITS_BYTES
from clp_core.evaluation.downstream import Proportion
from clp_core.evaluation.words import casing, encode_words, sentences_of, words_of
from clp_core.progress import report_progress
from clp_core.tokenization.text_reading import start_token
from clp_core.tokenization.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CANDIDATES = 4
CHANCE = 1 / CANDIDATES
SENTENCE_WORDS = (6, 40)
MOST_SENTENCES = 20_000
MAX_LENGTH_DIFFERENCE = 2
MAX_FREQUENCY_RATIO = 2
TRIES_A_QUESTION = 20
TRIES_A_WORD = 20


@dataclass(frozen=True)
class Question:
    """A sentence with a blank, and the words of which one stood there.

    Attributes:
        before: the sentence up to the blank.
        after: the sentence after it.
        candidates: four words in alphabetical order.
        answer: which of them stood there.
    """

    before: str
    after: str
    candidates: tuple[str, ...]
    answer: int

    @property
    def sentences(self) -> list[str]:
        """The sentence with each candidate."""
        return [self.before + word + self.after for word in self.candidates]


@dataclass(frozen=True)
class Sentence:
    """A sentence that questions can be made of.

    Attributes:
        text: the sentence.
        words: its words in small letters.
        places: start of every word that can be blanked: not the first, not the last, and standing in it once.
    """

    text: str
    words: frozenset[str]
    places: dict[str, int]

    @classmethod
    def read(cls, text: str) -> Sentence | None:
        """Return a sentence with words that can be blanked, ``None`` where there are none or its length is unfit."""
        between = words_of(text)
        if not SENTENCE_WORDS[0] <= len(between) <= SENTENCE_WORDS[1]:
            return None
        times = Counter(word.text.lower() for word in between if word)
        places = {word.text: word.start for word in between[1:-1] if word and times[word.text.lower()] == 1}
        return cls(text, frozenset(times), places) if places else None


@dataclass(frozen=True)
class Material:
    """The sentences of a text, and the words that can be blanked.

    Attributes:
        sentences: different sentences, in the order of the text.
        counts: how often each word stands in them.
    """

    sentences: list[Sentence]
    counts: Counter[str]

    @classmethod
    def read(cls, documents: Iterable[str]) -> Material:
        """Take the first sentences of a text, each once."""
        found: dict[str, Sentence] = {}
        for text in itertools.chain.from_iterable(map(sentences_of, documents)):
            if text not in found and (sentence := Sentence.read(text)):
                found[text] = sentence
            if len(found) == MOST_SENTENCES:
                break
        sentences = list(found.values())
        counts = Counter(word.text for sentence in sentences for word in words_of(sentence.text) if word)
        return cls(sentences, counts)

    @cached_property
    def places(self) -> dict[str, list[int]]:
        """For every word that can be blanked, the sentences in which it can."""
        found: dict[str, list[int]] = defaultdict(list)
        for i, sentence in enumerate(self.sentences):
            for word in sentence.places:
                found[word].append(i)
        return dict(sorted(found.items()))

    @cached_property
    def words(self) -> np.ndarray:
        """The words that can be blanked, in alphabetical order."""
        return np.array(list(self.places), dtype=object)

    @cached_property
    def _looks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pattern of capitals, length and frequency of every word."""
        patterns = [4 * first + 2 * upper + lower for first, upper, lower in map(casing, self.words)]
        counts = [self.counts[word] for word in self.words]
        return np.array(patterns), np.array(list(map(len, self.words))), np.array(counts)

    def alike(self, word: int) -> np.ndarray:
        """Return which other words could stand beside a word in a question."""
        patterns, lengths, counts = self._looks
        fits = (
            (patterns == patterns[word])
            & (np.abs(lengths - lengths[word]) <= MAX_LENGTH_DIFFERENCE)
            & (counts <= MAX_FREQUENCY_RATIO * counts[word])
            & (counts[word] <= MAX_FREQUENCY_RATIO * counts)
        )
        fits[word] = False
        return np.flatnonzero(fits)


def make_questions(documents: Iterable[str], n: int, seed: int) -> list[Question]:
    """Make cloze questions of a text; no two have the same sentence.

    They depend on the text, the seed and nothing else; a smaller number gives the first of them.

    Args:
        documents: the text.
        n: how many; fewer are made of a text that holds no more.
        seed: of the draws.

    Raises:
        InputError: the text holds no sentence of which a question can be made.
    """
    material = Material.read(documents)
    rng = np.random.default_rng(seed)
    # A word is drawn as often as it stands in the text.
    places = np.repeat(np.arange(len(material.words)), [len(found) for found in material.places.values()])
    unused = np.ones(len(material.sentences), dtype=bool)
    questions: list[Question] = []
    for _ in range(n * TRIES_A_QUESTION if len(places) else 0):
        question = draw_question(material, int(rng.choice(places)), unused, rng)
        if question is not None:
            questions.append(question)
        if len(questions) == n:
            break
    if not questions:
        low, high = SENTENCE_WORDS
        raise InputError(
            f"no question can be made of the text: {len(material.sentences):,} different sentences of {low} to {high} "
            "words were found; give a longer text of whole sentences, in a script that parts words by blanks"
        )
    return questions


def draw_question(material: Material, word: int, unused: np.ndarray, rng: np.random.Generator) -> Question | None:
    """Draw three words beside a word, a sentence for each of the four, and which of the four is the true one.

    The sentence of the true one is marked as used. ``None`` where there are no four, or no sentence for one of them.
    """
    others = material.alike(word)
    if len(others) < CANDIDATES - 1:
        return None
    chosen = np.sort([word, *rng.choice(others, CANDIDATES - 1, replace=False)])
    words = [str(material.words[i]) for i in chosen]
    lower = {word.lower() for word in words}
    if len(lower) < CANDIDATES:
        return None
    found = [draw_sentence(material, word, lower, unused, rng) for word in words]
    # All four must have one: a word that could not have been the true one would be no fair alternative.
    answer = int(rng.integers(CANDIDATES))
    if any(i is None for i in found):
        return None
    used = found[answer]
    assert used is not None
    unused[used] = False
    sentence = material.sentences[used]
    start = sentence.places[words[answer]]
    return Question(sentence.text[:start], sentence.text[start + len(words[answer]) :], tuple(words), answer)


def draw_sentence(
    material: Material, word: str, lower: set[str], unused: np.ndarray, rng: np.random.Generator
) -> int | None:
    """Return an unused sentence in which a word can be blanked and that holds no other candidate."""
    places = material.places[word]
    for place in rng.integers(len(places), size=TRIES_A_WORD).tolist():
        if unused[places[place]] and len(material.sentences[places[place]].words & lower) == 1:
            return places[place]
    return None


def hash_of(questions: Sequence[Question]) -> str:
    """Return a name for questions: the accuracies of two models compare only where it is the same."""
    content = [[question.before, question.after, question.candidates, question.answer] for question in questions]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ClozeScore:
    """How well a model answers cloze questions.

    Attributes:
        score: right answers.
        tied: questions in which the best score is that of several words, so that the answer is a guess.
        context_free: right answers where each candidate is scored without the sentence, by itself after the start
            token; ``None`` for a tokenizer without a start token.
        too_long: questions left out because a sentence has more tokens than the model has positions.
        unknown: questions left out because the tokenizer maps some of a sentence to its unknown token.
        questions: name of all questions, see ``hash_of``.
    """

    score: Proportion
    tied: int
    context_free: Proportion | None
    too_long: int
    unknown: int
    questions: str

    @property
    def warnings(self) -> list[str]:
        """What a reader of the figures should know."""
        told = []
        if left_out := self.too_long + self.unknown:
            told.append(
                f"{left_out} cloze questions were left out ({self.too_long} too long for the model, {self.unknown} "
                "with unknown tokens): compare only with models that answered the same ones"
            )
        if self.tied:
            told.append(f"in {self.tied} cloze questions the best words score exactly alike: the model guesses there")
        return told

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the command line."""
        return self.score.to_json() | {
            "chance": CHANCE,
            "context_free": self.context_free.to_json() if self.context_free else None,
            "tied": self.tied,
            "too_long": self.too_long,
            "unknown": self.unknown,
            "questions": self.questions,
        }


def answer_questions(
    model: PreTrainedModel, vocabulary: Vocabulary, questions: Sequence[Question], positions: int | None
) -> ClozeScore:
    """Let a loaded model answer questions.

    Raises:
        InputError: the tokenizer or the model can take none of them, or the model's scores are not finite.
    """
    start, unknown = start_token(vocabulary), vocabulary.roles.get("unk")
    head = [] if start is None else [start]
    texts = [text for question in questions for text in question.sentences]
    encoded = vocabulary.tokenizer.encode_batch(texts, add_special_tokens=False)
    ids = np.array([None, *[head + encoding.ids for encoding in encoded]], dtype=object)[1:].reshape(-1, CANDIDATES)
    is_unknown = np.array([any(unknown in sentence[len(head) :] for sentence in four) for four in ids])
    # The last token is predicted, and never an input.
    is_long = np.array([positions is not None and max(map(len, four)) - 1 > positions for four in ids]) & ~is_unknown
    kept = np.flatnonzero(~is_unknown & ~is_long).tolist()
    if not kept:
        raise InputError(
            f"the model can take none of the {len(ids)} cloze questions ({int(is_long.sum())} are longer than its "
            f"{positions} positions, {int(is_unknown.sum())} hold tokens unknown to its tokenizer); give another text"
        )
    answers = np.array([questions[i].answer for i in kept])
    scores = log_likelihoods(model, list(ids[kept].ravel()), "answering cloze questions").reshape(-1, CANDIDATES)
    check_scores(scores, model, vocabulary)
    context_free = None
    if start is not None:
        words = encode_words(vocabulary, [word for i in kept for word in questions[i].candidates])
        alone = log_likelihoods(model, [[start, *word] for word in words], "scoring the words by themselves")
        check_scores(alone, model, vocabulary)
        context_free = proportion_right(alone.reshape(-1, CANDIDATES), answers)
    return ClozeScore(
        score=proportion_right(scores, answers),
        tied=count_ties(scores),
        context_free=context_free,
        too_long=int(is_long.sum()),
        unknown=int(is_unknown.sum()),
        questions=hash_of(questions),
    )


def check_scores(scores: np.ndarray, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Refuse log likelihoods that are not finite: the order of candidates would mean nothing.

    Raises:
        InputError: some are not; the message names the weights that are to blame.
    """
    if not np.isfinite(scores).all():
        raise scores_error(model, model.name_or_path or vocabulary.name, vocabulary)


def proportion_right(scores: np.ndarray, answers: np.ndarray) -> Proportion:
    """Count the questions whose true word is the first with the best score; ``[n, 4]`` and ``[n]``."""
    return Proportion(int((scores.argmax(axis=1) == answers).sum()), len(answers))


def count_ties(scores: np.ndarray) -> int:
    """Count the questions in which several words have the best score, ``[n, 4]``."""
    return int(((scores == scores.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())


def log_likelihoods(model: PreTrainedModel, sequences: Sequence[Sequence[int]], phase: str) -> np.ndarray:
    """Return the log likelihood of each sequence after its first token, in nats, float64 ``[n]``.

    Log-probabilities are taken in float32 and summed in float64.
    """
    import torch

    device = next(model.parameters()).device
    vocab = model.get_output_embeddings().weight.shape[0]
    order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
    found = np.zeros(len(sequences))
    done = 0
    while done < len(order):
        longest = max(1, len(sequences[order[done]]) - 1)
        batch = order[done : done + max(1, LOGITS_BYTES // (4 * longest * vocab))]
        inputs = torch.zeros((len(batch), longest), dtype=torch.long)
        targets = torch.full((len(batch), longest), -100, dtype=torch.long)
        for row, i in enumerate(batch):
            ids = torch.tensor(sequences[i], dtype=torch.long)
            inputs[row, : len(ids[1:])], targets[row, : len(ids[1:])] = ids[:-1], ids[1:]
        with torch.inference_mode():
            # Sequences are filled up at their end, where causal attention lets nothing look.
            logits = model(input_ids=inputs.to(device), use_cache=False).logits
            losses = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), targets.to(device).flatten(), ignore_index=-100, reduction="none"
            )
        found[batch] = -losses.reshape(len(batch), longest).double().sum(dim=1).cpu().numpy()
        done += len(batch)
        report_progress(phase, done / len(order))
    return found
