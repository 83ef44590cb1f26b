"""What a text is about in a few words, without a language model: subjects, and phrases between stop words."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np

from ..features import Embedder, query_of
from ..protocols import Extractor
from ..types import Floats, Floats32

MAX_WORDS = 3
MAX_CHARS = 8000

_STOP = """
a about above after again all also am an and any are as at be because been before being below between both
but by can could did do does doing down during each either else few first for from further get give given go
had has have having he her here hers him his how i if in into is it its itself just let like made make many
may me might more most much must my no nor not now of off on once one only or other our out over own per
please same say see shall she should since so some such take than that the their theirs them then there these
they this those three through thus to too two under until up upon us use used using very was we well were
what when where whether which while who whom whose why will with within without would yes yet you your
answer choice choices correct explain false find following know option options question tell true write"""
STOP_WORDS = frozenset(_STOP.split())

_WORD = re.compile(r"[^\W\d_](?:[\w'+#-]*[\w+#])?", re.UNICODE)
_BREAK = re.compile(r"[^\w\s'+#-]+|\n|\b\d+\b")


def keywords(text: str, idf: Mapping[str, float] | None = None, n: int = 5) -> list[str]:
    """At most `n` keywords of at most 20 characters: subjects of the lexicon, then phrases of the text.

    A phrase scores as RAKE has it, the sum over its words of how many words they stand beside over how often
    they occur, here weighed by how rare the words are (`idf`, see `idf_of`; without it all alike). Of equals
    the earlier comes first.

    Reference: Rose et al., Automatic Keyword Extraction from Individual Documents, 2010.
    Differs: phrases of more than three words are cut; words are weighed by rarity.
    """
    found = subjects(text)
    phrases = _phrases(text)
    score = _word_scores(phrases)
    rarity = idf or {}
    rare = max(rarity.values(), default=1.0)
    worth = {
        " ".join(words): sum(score[w] * rarity.get(w, rare) for w in words) / len(words) for words in phrases
    }
    ranked = sorted(worth, key=lambda phrase: -worth[phrase])
    short = (phrase for phrase in ranked if len(phrase) <= MAX_KEYWORD_CHARS)
    return list(dict.fromkeys([*found, *short]))[:n]


def subjects(text: str) -> list[str]:
    """The lexicon's skills whose phrases stand in the text, most of them first; of equals in its order."""
    found = {phrase.lower() for phrase in _lexicon_pattern().findall(text[:MAX_CHARS])}
    n = Counter(skill for phrase in found for skill in _skills_of()[phrase])
    return sorted(n, key=lambda skill: (-n[skill], _rank()[skill]))


def idf_of(texts: Iterable[str]) -> dict[str, float]:
    """Inverse document frequency of every word of the texts, log((1 + n) / (1 + n_with)) + 1."""
    n_with: Counter[str] = Counter()
    n = 0
    for text in texts:
        n += 1
        n_with.update({word for words in _phrases(text) for word in words})
    return {word: log((1 + n) / (1 + count)) + 1 for word, count in n_with.items()}


def _phrases(text: str) -> list[tuple[str, ...]]:
    """Runs of words between stop words and signs, at most three words long, in order, repeats kept."""
    found: list[tuple[str, ...]] = []
    for part in _BREAK.split(text[:MAX_CHARS].lower()):
        run: list[str] = []
        for word in [*_WORD.findall(part), ""]:
            if word and word not in STOP_WORDS and len(word) > 1:
                run.append(word)
                continue
            found += [tuple(run[start : start + MAX_WORDS]) for start in range(0, len(run), MAX_WORDS)]
            run = []
    return found


def _word_scores(phrases: Sequence[tuple[str, ...]]) -> dict[str, float]:
    n: Counter[str] = Counter(word for words in phrases for word in words)
    beside: Counter[str] = Counter()
    for words in phrases:
        for word in words:
            beside[word] += len(words)
    return {word: beside[word] / count for word, count in n.items()}


@lru_cache(maxsize=1)
def _skills_of() -> dict[str, list[str]]:
    """Phrase → the skills it gives away."""
    skills: dict[str, list[str]] = {}
    for skill, phrases in SUBJECTS.items():
        for phrase in phrases:
            skills.setdefault(phrase, []).append(skill)
    return skills


@lru_cache(maxsize=1)
def _rank() -> dict[str, int]:
    return {skill: n for n, skill in enumerate(SUBJECTS)}


@lru_cache(maxsize=1)
def _lexicon_pattern() -> re.Pattern[str]:
    longest_first = sorted(_skills_of(), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


N_SAMPLES = 5
SAMPLING_TEMPERATURE = 0.7
MAX_KEYWORD_CHARS = 20
MAX_QUESTION_CHARS = 6000

_PROMPT = """\
Name the knowledge, subjects and skills that somebody needs in order to answer the question below. Do not \
answer it. Give two to five keywords of at most three words each, separated by commas, in one line that \
begins with "Keywords:".

Question:
{question}"""

_LINE = re.compile(r"keywords?\s*\**\s*:\s*\**\s*(.+)", re.IGNORECASE)
_EDGES = " \t\r\n.;:*`'\"<>[]()-"


def keyword_prompt(question: str) -> str:
    """What to ask a language model, `N_SAMPLES` times at `SAMPLING_TEMPERATURE`."""
    return _PROMPT.format(question=question[:MAX_QUESTION_CHARS])


def parse_keywords(reply: str) -> list[str]:
    """Keywords of one reply, in lower case, each once, in order; none where its form is another."""
    found = _LINE.findall(reply)
    if not found:
        return []
    words = (" ".join(word.strip(_EDGES).lower().split()) for word in found[-1].split(","))
    return [word for word in dict.fromkeys(words) if 0 < len(word) <= MAX_KEYWORD_CHARS]


def consistent_keywords(replies: Sequence[str]) -> list[str]:
    """Keywords that more than one reply names, most often named first; of equals in order of first mention.

    Reference: Symbolic-MoE (arXiv 2503.05641), section 3.1: five samples, T 0.7, what occurs more than once.
    Differs: a keyword that one reply repeats counts once.
    """
    named = Counter(word for reply in replies for word in parse_keywords(reply))
    return [word for word, n in named.most_common() if n > 1]


SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "arithmetic": ("sum of", "product of", "divided by", "multiplied by", "percent", "remainder", "fraction"),
    "word problem": ("how many", "how much", "each day", "per week", "in total", "altogether", "left over"),
    "algebra": ("equation", "polynomial", "solve for", "quadratic", "variable", "inequality", "exponent"),
    "abstract algebra": (
        "subgroup",
        "homomorphism",
        "abelian",
        "quotient ring",
        "finite field",
        "isomorphic",
    ),
    "geometry": ("triangle", "circle", "radius", "perimeter", "polygon", "angle", "rectangle", "diagonal"),
    "number theory": ("prime", "divisible", "modulo", "integer", "greatest common", "digits"),
    "calculus": ("derivative", "integral", "limit", "differentiable", "differential", "converges"),
    "probability": ("probability", "dice", "coin", "randomly", "expected value", "at random"),
    "statistics": ("variance", "standard deviation", "regression", "sample size", "hypothesis", "p-value"),
    "combinatorics": ("how many ways", "permutation", "combination", "arrangements", "choose"),
    "linear algebra": ("matrix", "eigenvalue", "vector space", "determinant", "linear map"),
    "logic": ("premise", "conclusion", "implies", "valid argument", "truth table", "syllogism", "fallacy"),
    "puzzle": ("puzzle", "riddle", "knights", "liar", "sits next to", "in order from"),
    "mechanics": ("velocity", "acceleration", "force", "friction", "momentum", "torque", "kinetic energy"),
    "electricity": ("voltage", "current", "resistor", "capacitor", "circuit", "magnetic field"),
    "thermodynamics": ("entropy", "temperature", "heat", "ideal gas", "adiabatic", "pressure"),
    "quantum physics": ("quantum", "photon", "wave function", "electron", "wavelength", "spin"),
    "astronomy": ("planet", "star", "galaxy", "orbit", "telescope", "solar system", "redshift"),
    "chemistry": ("molecule", "reaction", "acid", "solution", "molar", "oxidation", "bond", "catalyst"),
    "organic chemistry": ("alkene", "ketone", "synthesis", "benzene", "stereoisomer", "nmr", "reagent"),
    "cell biology": ("cell", "membrane", "protein", "mitochondria", "enzyme", "receptor"),
    "genetics": ("gene", "dna", "chromosome", "allele", "mutation", "genotype", "rna"),
    "ecology": ("species", "population", "ecosystem", "habitat", "predator", "evolution"),
    "anatomy": ("muscle", "nerve", "artery", "bone", "organ", "tissue", "spinal"),
    "medicine": ("patient", "diagnosis", "symptoms", "treatment", "disease", "year-old", "clinical"),
    "pharmacology": ("drug", "dose", "side effect", "inhibitor", "antibiotic", "medication"),
    "nutrition": ("diet", "vitamin", "calories", "nutrient", "fasting"),
    "psychology": ("behavior", "cognitive", "personality", "therapist", "memory", "motivation", "freud"),
    "sociology": ("society", "social class", "gender", "inequality", "culture", "norms"),
    "economics": ("demand", "supply", "inflation", "gdp", "monopoly", "elasticity", "interest rate"),
    "accounting": ("balance sheet", "depreciation", "revenue", "assets", "audit", "net income"),
    "finance": ("investment", "bond", "stock", "portfolio", "dividend", "loan"),
    "management": ("organization", "leadership", "employees", "stakeholders", "strategy", "marketing"),
    "law": ("court", "plaintiff", "defendant", "contract", "statute", "liable", "constitution"),
    "politics": ("election", "president", "congress", "government", "treaty", "parliament", "policy"),
    "world history": ("war", "empire", "century", "revolution", "king", "dynasty", "colonial"),
    "prehistory": ("neolithic", "archaeological", "hominid", "fossil", "stone tools", "excavation"),
    "geography": ("capital of", "river", "continent", "population of", "mountain", "border"),
    "philosophy": ("kant", "moral", "utilitarian", "epistemology", "plato", "virtue", "metaphysics"),
    "ethics": ("morally wrong", "ethical", "scenario", "moral standards", "rights"),
    "religion": ("god", "bible", "buddhist", "islam", "christian", "hindu", "prophet"),
    "literature": ("novel", "poem", "author", "shakespeare", "character", "poet"),
    "music and film": ("song", "album", "film", "movie", "actor", "band", "director"),
    "sports": ("team", "player", "game", "olympic", "score", "league"),
    "everyday sense": ("kitchen", "most likely", "would you", "what happens", "in order to"),
    "reading": ("passage", "according to", "paragraph", "the text", "following article"),
    "word meaning": ("synonym", "antonym", "meaning of", "definition", "refers to", "pronoun"),
    "grammar": ("sentence", "verb", "noun", "grammatical", "tense", "plural"),
    "translation": ("translate", "in french", "in spanish", "in german", "in chinese"),
    "spelling": ("spell", "letters", "backwards", "reverse", "alphabetical", "vowels"),
    "extraction": ("extract", "list all", "find the", "identify", "entities"),
    "summarising": ("summarize", "summary", "in one sentence", "main idea", "shorten"),
    "formatting": ("json", "bullet", "table", "format", "markdown", "csv"),
    "writing": ("write a", "story", "essay", "letter", "email", "poem about"),
    "python": ("python", "def", "list comprehension", "numpy", "pandas", "return"),
    "javascript": ("javascript", "typescript", "react", "html", "css", "function"),
    "systems languages": ("c++", "rust", "pointer", "java", "golang", "compile"),
    "sql": ("sql", "select", "query", "join", "database", "primary key"),
    "algorithms": ("algorithm", "array", "binary", "sort", "complexity", "graph", "recursive"),
    "debugging": ("error", "bug", "exception", "fix the", "traceback", "does not work"),
    "machine learning": ("neural network", "training data", "classifier", "gradient", "overfitting"),
    "computer security": ("encryption", "attack", "password", "vulnerability", "malware", "tcp"),
    "operating systems": ("kernel", "process", "thread", "cache", "memory", "scheduling"),
    "engineering": ("voltage regulator", "transistor", "beam", "load", "signal", "amplifier"),
    "dates and times": ("how many days", "o'clock", "calendar", "weekday", "hours", "minutes"),
    "units": ("convert", "kilometers", "miles", "celsius", "kilograms", "gallons"),
    "bias and fairness": ("stereotype", "race", "gay", "grandfather", "immigrant"),
    "health advice": ("cure", "healthy", "weight loss", "is it safe", "doctor"),
    "misconceptions": ("myth", "true that", "is it true", "really", "proven"),
    "multiple choice": ("which of the following", "choose the correct", "correct answer", "options"),
}
"""Skill → phrases in lower case; a phrase counts where it stands in the text as whole words."""


FLOOR = 0.45
N_NEAR = 3

HashedSkill = tuple[str, list[list[int]]]
"""A skill's name and its phrases as hashed n-grams: what the predictor `skills` takes as its catalogue."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Skills by name, each with the phrases that mention it; its own name where there are no others."""

    skills: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, texts: Sequence[str], n_skills: int = 512, min_texts: int = 3) -> "Catalogue":
        """The lexicon's subjects and the keywords of the texts that at least `min_texts` of them bear.

        Of the keywords those borne by most texts are taken; of equals by name.
        """
        idf = idf_of(texts)
        bearers = Counter(word for text in texts for word in set(keywords(text, idf)))
        from_keywords = Counter(skill for text in texts for skill in subjects(text))
        met = [skill for skill in SUBJECTS if from_keywords[skill] >= min_texts]
        often = sorted(
            (word for word, n in bearers.items() if n >= min_texts and word not in SUBJECTS),
            key=lambda word: (-bearers[word], word),
        )
        names = [*met, *often][:n_skills]
        return cls({name: SUBJECTS.get(name, (name,)) for name in names})

    @classmethod
    def from_bearers(
        cls, keywords_by_query: Sequence[Sequence[str]], min_texts: int, n_skills: int
    ) -> "Catalogue":
        """The keywords of at least `min_texts` queries, those of most queries first; of equals by name."""
        bearers = Counter(word for words in keywords_by_query for word in set(words))
        often = sorted(
            (word for word, n in bearers.items() if n >= min_texts), key=lambda word: (-bearers[word], word)
        )
        return cls({word: (word,) for word in often[:n_skills]})

    def hash_phrases(self, extractor: Extractor) -> list[HashedSkill]:
        """Each phrase as the hashed n-grams that a query which mentions it has too."""
        phrases = [(name, phrase) for name, all_ in self.skills.items() for phrase in all_]
        slots = extractor.extract([query_of(phrase) for _, phrase in phrases], "static").lexical
        skills: dict[str, list[list[int]]] = {name: [] for name in self.skills}
        for (name, _), row in zip(phrases, slots, strict=True):
            skills[name].append([slot for slot in row.tolist() if slot >= 0])
        return list(skills.items())


class Tagger:
    """Tags queries with the catalogue's skills; these are embedded when the tagger is made, never again."""

    def __init__(self, catalogue: Catalogue, embedder: Embedder) -> None:
        self.names = tuple(catalogue.skills)
        self._column = {name: n for n, name in enumerate(self.names)}
        self._vectors = embedder.embed(self.names)
        self._embedder = embedder

    def tag(
        self, keywords_by_query: Sequence[Sequence[str]], floor: float = FLOOR, n_near: int = N_NEAR
    ) -> Floats:
        """(n_queries, n_skills) in [0, 1]: 1 for keywords of the catalogue, the cosine for those near others.

        Of the skills near a keyword at most `n_near` count, and none below the floor.
        """
        tags = np.zeros((len(keywords_by_query), len(self.names)))
        others = dict.fromkeys(w for words in keywords_by_query for w in words if w not in self._column)
        near = dict(zip(others, soft(self._cosines(list(others)), floor, n_near), strict=True))
        for row, words in enumerate(keywords_by_query):
            for word in words:
                if word in near:
                    np.maximum(tags[row], near[word], out=tags[row])
                else:
                    tags[row, self._column[word]] = 1.0
        return tags

    def tag_nearest(self, keywords_by_query: Sequence[Sequence[str]]) -> Floats:
        """(n_queries, n_skills) how many of the query's keywords have the skill for their nearest.

        Reference: Symbolic-MoE (arXiv 2503.05641), section 3.2: nearest by cosine, without a floor.
        """
        words = dict.fromkeys(w for words in keywords_by_query for w in words)
        nearest = dict(zip(words, self._cosines(list(words)).argmax(axis=1).tolist(), strict=True))
        tags = np.zeros((len(keywords_by_query), len(self.names)))
        for row, mine in enumerate(keywords_by_query):
            for word in mine:
                tags[row, nearest[word]] += 1.0
        return tags

    def _cosines(self, words: list[str]) -> Floats32:
        """(n_words, n_skills): one product for any number of queries."""
        cosines: Floats32 = self._embedder.embed(words) @ self._vectors.T
        return cosines


def soft(cosines: Floats32, floor: float, n_near: int) -> Floats:
    """(n_words, n_skills) the cosine of the `n_near` nearest skills that reach the floor, 0 elsewhere."""
    near = cosines.astype(np.float64)
    if near.shape[1] > n_near:
        edge = -np.partition(-near, n_near - 1, axis=1)[:, n_near - 1 : n_near]
        near[near < edge] = 0.0
    near[near < floor] = 0.0
    return near
