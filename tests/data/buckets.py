"""A bucket in memory."""

import uuid
from typing import Any

import fsspec

from imagecap.data.dataset import read_captions
from imagecap.data.remote import data_place
from imagecap.data.samples import Samples
from tests.data.layouts import Folder


class Bucket:
    """A folder in fsspec's bucket in memory, with what lies in a folder of the disk."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.system = fsspec.filesystem("memory")
        self.url = f"memory://{uuid.uuid4().hex}/shards"
        self.path = data_place(self.url)

    def upload(self) -> None:
        if self.system.exists(self.url):
            self.system.rm(self.url, recursive=True)
        self.system.put(str(self.folder.path), self.url, recursive=True)

    def read(self, **settings: Any) -> Samples:
        return read_captions(self.folder.settings(data_path=self.url, **settings))[0]
