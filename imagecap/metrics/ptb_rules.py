"""The token patterns of the PTB tokenizer, and its lists of abbreviations and other special words."""

import re
from collections.abc import Callable
from dataclasses import dataclass

# Letters in the tokenizer's sense: marks of European, Hebrew, Arabic and Indic scripts count, numerals do not.
_NUMERALS = "²³¹¼-¾⁰-₉⅐-↏①-⒛⓪-⓿❶-➓㈠-㊿"
L = rf"(?:[^\W\d_{_NUMERALS}\U00010000-\U0010ffff]|[\u02c2-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065e\u0900-\u0d4d])"
N = rf"(?:{L}|\d)"
A = r"[A-Za-z]"
AN = r"[A-Za-z0-9]"
Q = r"['’]"  # apostrophes
W = r"['‘’`]"  # what may stand for one inside a word
S = r"[ \t\n\u00a0]"


def _words(text: str) -> list[str]:
    return text.split()


# Kept with their full stop, whatever follows.
ABBREVIATIONS = _words("""
    adj adm adv al ala alex apr ariz assn asst atty attys aug ave bancorp bhd bldg blvd brig bros calif capt cf cie
    cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov
    govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle mme
    mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph plc pres prof pvt rd rep reps rev rt sen sens
    sep sept seq sfc sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm
    wyo
""")
# Of these, some stand at the end of a name or sentence as a rule: one letter after the stop is no part of them.
CLOSING_ABBREVIATIONS = _words("""
    al ala apr ariz assn aug bancorp bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla
    fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc rd
    rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
""")
# These only with a capital: small they are words.
CAPITALISED_ABBREVIATIONS = _words("ark az del ill la mass miss ore pa tex wash")
SMALL_ABBREVIATIONS = _words("mfg mtg ppte ppty pte ptes pty ptys")
# These only before a number.
NUMBER_ABBREVIATIONS = _words("art ca fig figs no nos op p pp prop")
# A single capital and a full stop before one of these end a sentence: no initial.
SENTENCE_STARTERS = _words("""
    A About According Additionally After An As At But He Her Here However If In It Last Many More Now Once One Other
    Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""")
SPLIT_WORDS = {"cannot": 3, "gonna": 3, "gotta": 3, "lemme": 3, "gimme": 3, "wanna": 3, "'tis": 2, "'twas": 2}
"""Words that are two tokens, and the length of the first."""


@dataclass(frozen=True)
class Rule:
    """One kind of token.

    Attributes:
        pattern: matches the token at its first character.
        starts: the ASCII characters that it can begin with; None: any character.
        change: applied to the matched text before lower-casing; None: the text is kept.
    """

    pattern: re.Pattern[str]
    starts: str | None
    change: Callable[[str], str] | None = None

    @property
    def match(self) -> Callable[[str, int], re.Match[str] | None]:
        """`match(text, position)`."""
        return self.pattern.match

    @property
    def looks_ahead(self) -> bool:
        """Whether the pattern has a group `rest`, which is not part of the token."""
        return bool(self.pattern.groups)


def _rule(pattern: str, starts: str | None, change: Callable[[str], str] | None = None) -> Rule:
    return Rule(re.compile(pattern), starts, change)


def _glued(token: str) -> str:
    return token.replace(" ", "\u00a0").replace("(", "-LRB-").replace(")", "-RRB-")


def _straight(token: str) -> str:
    return token.replace("’", "'").replace("‘", "`")


def _fraction(token: str) -> str:
    for sign, text in (("½", "1/2"), ("¼", "1/4"), ("¾", "3/4"), ("⅓", "1/3"), ("⅔", "2/3")):
        token = token.replace(sign, text)
    return _glued(token)


_ENTITIES = {"amp": "&", "lt": "<", "gt": ">", "quot": "''", "apos": "'", "mdash": "--", "nbsp": ""}
_QUOTES = {"‘": "`", "‛": "`", "‹": "`", "’": "'", "›": "'", "“": "``", "«": "``", "”": "''", "»": "''"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
_URL_END = r"[^\s\u00a0\"<>|.!?(){},-]"
_URL_BODY = r"[^\s\u00a0\"<>|()]"
_NAME = r"[A-Za-z][A-Za-z0-9_:.-]*"
_BRACKET_TOKENS = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-", "{": "-LCB-", "}": "-RCB-"}
_NUMBER = r"(?:\d*(?:[.,:\u00ad\u066b\u066c]\d+)+|\d+)"


def _any_of(words: list[str], *, ignore_case: bool = True) -> str:
    joined = "|".join(sorted(words, key=len, reverse=True))
    return f"(?i:{joined})" if ignore_case else f"(?:{joined})"


_ALL: list[Rule] = [
    # markup
    _rule(rf"<(?:/{_NAME}|{_NAME}(?:{S}+(?:{_NAME}{S}*={S}*(?:'[^'\n]*'|\"[^\"\n]*\")|{_NAME}))*{S}*/?)>", "<", _glued),
    _rule(r"<[!?][A-Za-z-][^>\n]*>", "<", _glued),
    _rule(r"(?i:&(?:amp|lt|gt|quot|apos|mdash|nbsp);)", "&", lambda token: _ENTITIES[token[1:-1].lower()]),
    _rule(r"&#[0-9]+;", "&"),
    # words that are two tokens
    *(
        _rule(rf"(?i:{word[:cut].replace(chr(39), Q)})(?P<rest>(?i:{word[cut:]}))", f"{word[0]}{word[0].upper()}")
        for word, cut in SPLIT_WORDS.items()
    ),
    _rule(rf"[A-Za-z]*[A-MO-Za-mo-z](?P<rest>[nN]{W}[tT])", _LETTERS),
    _rule(rf"[nN]{W}[tT]", "nN", _straight),
    _rule(rf"{A}+(?P<rest>{Q}(?i:[msd]|re|ve|ll)(?![A-Za-z]))", _LETTERS),
    _rule(r"'(?i:[msd]|re|ve|ll)(?P<rest>[^A-Za-z])", "'"),
    _rule(r"’(?i:[msd]|re|ve|ll)", None, _straight),
    # words with an apostrophe inside
    _rule(rf"[dDlLoO]{W}{N}{{2,}}", "dDlLoO"),
    _rule(rf"[A-Zn]{W}{L}{{2,}}", _LETTERS),
    _rule(rf"[A-Za-z]+[aeiouyAEIOUY]{W}[aeiouA-Z][A-Za-z]*", _LETTERS),
    _rule(rf"(?i:c{Q}mon|cap{Q}n|s{Q}mores|e{Q}er|o{Q}o|ol{Q}|dunkin{Q})", _LETTERS),
    _rule(rf"[yYjJ]{Q}(?P<rest>[A-Za-z])", "yYjJ"),
    _rule(rf"[dDlL]{Q}", "dDlL"),
    _rule(rf"{Q}(?i:em|till?|cause|n{Q}?)", "'"),
    # abbreviations
    _rule(rf"{_any_of(ABBREVIATIONS)}\.", _LETTERS),
    _rule(rf"{_any_of(CLOSING_ABBREVIATIONS)}\.(?P<rest>[A-Za-z](?![A-Za-z0-9]))", _LETTERS),
    _rule(rf"{_any_of([w.capitalize() for w in CAPITALISED_ABBREVIATIONS], ignore_case=False)}\.", _LETTERS),
    _rule(rf"{_any_of([w.upper() for w in CAPITALISED_ABBREVIATIONS], ignore_case=False)}\.", _LETTERS),
    _rule(
        rf"{_any_of([w for each in SMALL_ABBREVIATIONS for w in (each, each.capitalize())], ignore_case=False)}\.",
        _LETTERS,
    ),
    _rule(rf"{_any_of(NUMBER_ABBREVIATIONS)}\.(?P<rest>{S}?[0-9])", _LETTERS),
    _rule(r"[A-Za-z](?:\.[A-Za-z])+\.", _LETTERS),
    _rule(r"[Pp][Hh]\.[Dd]\.", "pP"),
    _rule(
        rf"[A-Za-z](?P<rest>\.{S}+(?:{'|'.join([*SENTENCE_STARTERS, *(w.upper() for w in SENTENCE_STARTERS)])}){S})",
        _LETTERS,
    ),
    _rule(r"[A-Za-z]\.", _LETTERS),
    _rule(rf"(?:{L}{N}*(?:[.!?]{L}{N}*)*|{N}+(?:[-_]{N}+)*)\.(?P<rest>[,;:])", None),
    # names of firms and languages
    _rule(r"[A-Z]+(?:(?:&|&amp;|\+)[A-Z]+)+", _LETTERS, lambda token: token.replace("&amp;", "&")),
    _rule(r"(?:[Cc]\+\+|[CcFf]#)", "CcFf"),
    # addresses
    _rule(rf"(?i:https?)://{_URL_BODY}+\.{_URL_BODY}+{_URL_END}", "hH"),
    _rule(rf"(?i:www)\.(?:[^\s\u00a0\"<>|.!?(){{}},]+\.)+[A-Za-z]{{2,4}}(?:/{_URL_BODY}+{_URL_END})?", "wW"),
    _rule(rf"(?:{A}{AN}*\.)+(?i:com|net|org|edu)(?:/{_URL_BODY}+{_URL_END})?", None),
    _rule(r"[A-Za-z0-9][^\s\u00a0\"<>|()]*@(?:[^\s\u00a0\"<>|(){}.]+\.)*[^\s\u00a0\"<>|(){}.]+", _LETTERS + _DIGITS),
    _rule(r"@[A-Za-z_][A-Za-z_0-9]*", "@"),
    _rule(rf"#{L}+", "#"),
    # numbers
    _rule(rf"[-+]?{_NUMBER}", _DIGITS + ".,:-+"),
    _rule(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", _DIGITS),
    _rule(r"(?:\d{1,4}[- \u00a0])?\d{1,4}(?:/|⁄)\d{1,4}", _DIGITS, _fraction),
    _rule(r"[½¼¾⅓⅔]", None, _fraction),
    _rule(
        r"(?:\(\d{3}\)[ \u00a0]?|(?:\+?\d{1,2}[- \u00a0.])?\d{2,4}[- \u00a0/.])\d{3,4}[- \u00a0/.]?\d{3,5}",
        _DIGITS + "(+",
        _glued,
    ),
    _rule(rf"{Q}\d\d(?P<rest>{S})", "'"),
    _rule(rf"{Q}[2-9]0s", "'"),
    # words
    _rule(rf"{L}{N}*(?:[.!?]{L}{N}*)*", None),
    _rule(rf"{N}+(?:[-_]{N}+)*", None),
    _rule(rf"{AN}(?:{AN}|[.,](?!{S}))*(?:-(?:[dDlLoO]{W})?{N}+)*-{A}(?:\.{A})+\.", _LETTERS + _DIGITS),
    _rule(rf"{AN}(?:{AN}|[.,](?!{S}))*(?:-(?:[dDlLoO]{W})?{AN}+)+", _LETTERS + _DIGITS),
    _rule(rf"{AN}+(?:-{A}+){{0,2}}(?:/{AN}+(?:-{A}+){{0,2}}){{1,2}}", _LETTERS + _DIGITS),
    _rule(rf"[dDlLoO]{W}{N}{{2,}}(?:-{N}+)+", "dDlLoO"),
    # money
    _rule(r"[A-Z]+\$", _LETTERS),
    # faces, alone
    _rule(r"[<>]?[:;=]['o-]?[@()DPdp3\]\[|](?P<rest>[^A-Za-z0-9])", "<>:;=", _glued),
    _rule(r"[\^-]_[\^-]", "^-"),
    # quotes
    _rule(r'"(?P<rest>[A-Za-z0-9$])', '"', lambda _: "``"),
    _rule(r'"', '"', lambda _: "''"),
    _rule(r"``|''", "`'"),
    _rule(r"'(?P<rest>[A-Za-z][^\s\u00a0])", "'", lambda _: "`"),
    # two curly ones are one token, as the official tokenizer has it
    _rule(r"[‘‛‹’›“«”»]{1,2}", None, lambda token: "".join(_QUOTES[each] for each in token)),
    # punctuation in runs
    _rule(rf"\.\.\.|\.{S}\.{S}\.", ".", lambda _: "..."),
    _rule("…", None, lambda _: "..."),
    _rule(r"[!?]+", "!?"),
    _rule(r"(?i:-[lr][rcs]b-)", "-"),
    _rule(r"-{2,4}", "-", lambda _: "--"),
    _rule(r"-{5,}", "-"),
    _rule(r"[–—―]", None, lambda _: "--"),
    _rule(r"\*+|#+|@+|_+|<<|>>", "*#@_<>"),
    _rule(r"[()\[\]{}]", "()[]{}", lambda token: _BRACKET_TOKENS[token]),
    _rule(r"€|¤|₠", None, lambda _: "$"),
    _rule("£", None, lambda _: "#"),
    _rule("¢", None, lambda _: "cents"),
]

RULES: dict[str, list[Rule]] = {
    character: [rule for rule in _ALL if rule.starts is None or character in rule.starts]
    for character in map(chr, range(33, 127))
} | {"other": [rule for rule in _ALL if rule.starts is None or "'" in rule.starts]}
