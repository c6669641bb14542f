"""Which language a caption is in, told by its script."""

import re
from typing import Literal

Language = Literal["en", "zh"]

# Han characters: the unified blocks with their extensions, compatibility forms, and the signs 々 and 〇.
_HAN = re.compile(r"[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_CHINESE_MARK = re.compile(r"[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f《》「」『』【】]")
_WORD = re.compile(r"[^\W\d_\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]+")


def language_of(text: str) -> Literal["en", "zh"]:
    """`"zh"` if `text` has more Han characters than words of other scripts, else `"en"`.

    So "穿着NIKE T-shirt的男孩" is Chinese and 'a sign that says "停车"' is English. Text without any letter is
    Chinese if it has Chinese punctuation.
    """
    han = len(_HAN.findall(text))
    words = len(_WORD.findall(text))
    if han == words == 0:
        return "zh" if _CHINESE_MARK.search(text) else "en"
    return "zh" if han > words else "en"
