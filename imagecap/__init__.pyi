# What type checkers see; at run time these names are imported when they are first used.
from imagecap.errors import ImageCapError as ImageCapError
from imagecap.library import Captioner as Captioner
from imagecap.library import evaluate as evaluate
from imagecap.library import load as load
from imagecap.library import score as score
from imagecap.library import train as train

__version__: str
