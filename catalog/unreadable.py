"""An entry of an answer or of a file that is no item, in the place where an item was to be."""

from __future__ import annotations

import hashlib
from typing import Any


class UnreadableItem(dict[str, Any]):
    """What is known of it: ``id`` and ``collection`` where they could be made out, and a digest
    of its text, so that the same fault is known again. ``fault`` says why it is none, as
    ``item.scene_from_item`` does to who asks for its scene: it fails alone, and by its name.
    """

    def __init__(
        self, fault: str, text: str | bytes = b"", *, id: str | None = None, **names: str | None
    ) -> None:
        raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
        known = {"id": id, **names, "sha256": hashlib.sha256(raw).hexdigest()}
        super().__init__({key: value for key, value in known.items() if value is not None})
        self.fault = fault
