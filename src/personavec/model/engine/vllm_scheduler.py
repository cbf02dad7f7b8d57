"""vLLM's scheduler, changed so that steered blocks of the prefix cache are not shared."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler  # pyright: ignore[reportMissingImports]

from personavec.model.engine.vllm_note import NOTE
from personavec.model.engine.vllm_salt import salted


class SaltingScheduler(Scheduler):
    """Runs in vLLM's core process, and names a request's blocks as its note says (`vllm_salt`)."""

    def add_request(self, request: Any) -> None:
        extra = request.sampling_params and request.sampling_params.extra_args
        note = extra and extra.get(NOTE)
        if note and note["salt"] and request._block_hasher is not None:
            first = note["salted_from"] // self.hash_block_size
            if first:
                request._block_hasher = salted(request._block_hasher, first, note["salt"])
            else:
                request.cache_salt = f"{request.cache_salt or ''} {note['salt']}"
            request.block_hashes.clear()
            request.update_block_hashes()
        super().add_request(request)
