"""ImageCap: trains, evaluates, versions and serves image captioners.

    import imagecap

    model = imagecap.load("outputs/final")
    for caption in model.caption(["a.jpg", "b.jpg"], num_beams=5):
        print(caption.text, caption.score)

`load`, `train`, `evaluate`, `score`, `Captioner` and `ImageCapError` are imported when they are first used, so that
`import imagecap` is quick. See docs/reference/library.md.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.2.0"

_MODULES = {
    "Captioner": "imagecap.library",
    "ImageCapError": "imagecap.errors",
    "evaluate": "imagecap.library",
    "load": "imagecap.library",
    "score": "imagecap.library",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, "train"})


class _TrainPackage(ModuleType):
    """The package `imagecap.train`, which can be called as the function `imagecap.train`.

    Python sets the attribute `train` of `imagecap` to the package as soon as anything imports it, which would hide a
    function of that name.
    """

    def __call__(self, **arguments: object) -> object:
        return import_module("imagecap.library").train(**arguments)


import_module("imagecap.train").__class__ = _TrainPackage
