"""Input images: images that a request brings or names are stored once.

Owns the way from bytes, or from an earlier job's image, to an `Input`; and the one way an input
is resized. Knows no route. Invariant: stored bytes are plain pixels in a PNG of this service's
writing; uploaded bytes are never stored and never decoded in this process.
"""

from __future__ import annotations

import functools
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from api.errors import ImageMissing
from api.settings import ApiSettings
from api.uploads.decoder_pool import Bytes, Decoders, Pixels, Undecodable
from api.uploads.large_bodies import LargeBodySlots
from jobs.blobs import BlobStore
from jobs.contract.input_images import CONTENT_TYPE, Input, input_blob_key, size_of
from jobs.contract.request_parts import Picture
from jobs.contract.spec import JobRequest, JobSpec
from jobs.errors import BlobsUnavailable, InputMissing, InvalidRequest, JobMissing, Problem
from jobs.store.job_store import AsyncJobStore
from jobs.store.scripts import input_calls

T = TypeVar("T")
log = logging.getLogger(__name__)
OWN_BYTES = 256 * 1024 * 1024  # limit of a generated image: its pixels bound it, not its bytes


class ImageUploads:
    """Storage of images as inputs. Created by `open_intake`."""

    def __init__(
        self,
        settings: ApiSettings,
        store: AsyncJobStore,
        blobs: BlobStore,
        threads: anyio.CapacityLimiter,
        decoders: Decoders,
    ) -> None:
        self._settings = settings
        self._store = store
        self._blobs = blobs
        self._threads = threads
        self._decoders = decoders
        self.bodies = LargeBodySlots(
            usual_bytes=settings.max_body_bytes, body_timeout_s=settings.body_timeout_s
        )

    async def upload(self, data: Bytes, *, tenant: str, background: str | None = None) -> Input:
        """Decode and store an uploaded image. Raises InvalidRequest, IntakeBusy."""
        try:
            pixels = await self._decoders.decode(
                data,
                tenant=tenant,
                max_bytes=self._settings.max_input_bytes,
                background=background,
            )
        except Undecodable as refused:
            raise InvalidRequest([Problem("", refused.code, refused.detail)]) from None
        return await self.keep(pixels, tenant=tenant)

    async def find(self, an_id: str, *, tenant: str) -> Input:
        """Return the record of an input image. Raises InputMissing."""
        found = await self._store.run(input_calls.find(tenant, an_id))
        if found is None:
            raise InputMissing("there is no such input image, or it has expired; upload it again")
        return found

    async def keep(self, pixels: Pixels, *, tenant: str) -> Input:
        """Store pixels unless they are stored already; either way for `input_ttl_s` from now."""
        hold_s, blob = self._settings.input_ttl_s, secrets.token_hex(8)
        find = input_calls.find(tenant, pixels.id, new_blob=blob, hold_s=hold_s)
        known = await self._store.run(find)
        if known is not None and await self._mended(known, pixels, tenant=tenant):
            known = await self._store.run(find)  # erased meanwhile: it is new once more
        if known is not None:
            return known
        key = input_blob_key(f"{tenant}/{pixels.id}/{blob}")
        await self._in_thread(lambda: self._blobs.put(key, bytes(pixels.png), CONTENT_TYPE))
        return await self._store.run(
            input_calls.keep(tenant, pixels.id, blob, changes=pixels.changes, hold_s=hold_s)
        )

    async def take_in(
        self, asked: JobRequest, *, tenant: str, cut: Mapping[str, Bytes] | None = None
    ) -> JobRequest:
        """Store every image of a request as an input. `cut`: images extracted from JSON, by token.

        Raises InvalidRequest, JobMissing, ImageMissing, IntakeBusy.
        """
        taken: dict[str, Picture] = {}
        _check_used(asked, cut or {})
        for pointer, given in _pictures(asked).items():
            if given.input is None:
                made = await self._taken(pointer, given, tenant, cut or {})
                taken[pointer] = Picture.model_validate({"input": made.id})
        return _with_pictures(asked, taken) if taken else asked

    async def fitted(self, spec: JobSpec, *, tenant: str) -> JobSpec:
        """Resize the spec's input images to the job's size by `resize`; return the new spec."""
        size = (spec.width, spec.height)
        fitted = {
            an_id: await self._resized(an_id, spec, tenant)
            for an_id in spec.inputs
            if size_of(an_id) != size
        }
        return _with_inputs(spec, fitted) if fitted else spec

    async def erase(self, an_id: str, *, tenant: str) -> None:
        """Delete an input image, even if jobs use it. Raises InputMissing, BlobsUnavailable."""
        key = await self._store.run(input_calls.drop(tenant, an_id))
        if key is None:
            raise InputMissing("there is no such input image, or it has expired; upload it again")
        left = await self._in_thread(self._blobs.delete, [key])
        if left:  # the janitor tries again; the caller must not get a success
            raise BlobsUnavailable(left[key])

    async def _mended(self, known: Input, pixels: Pixels, *, tenant: str) -> bool:
        """Store the bytes of a known input again if its object is missing; True: it was missing.

        Redis knows an input whose object was removed. Under the same name, since the jobs
        that wait for it know that one.
        """
        key = input_blob_key(f"{tenant}/{known.id}/{known.blob}")
        if await self._in_thread(self._blobs.size, key) == len(pixels.png):
            return False
        await self._in_thread(self._blobs.put, key, pixels.png, CONTENT_TYPE)
        log.warning("input.stored_again", extra={"input": known.id})
        return True

    async def _taken(
        self, pointer: str, given: Picture, tenant: str, cut: Mapping[str, Bytes]
    ) -> Input:
        try:
            if given.job is not None:
                return await self._of_job(pointer, given.job, given.index, tenant)
            data = given.data or ""
            pixels = await self._decoders.decode(
                cut.get(data) or data.encode("utf-8", "replace"),
                tenant=tenant,
                max_bytes=self._settings.max_input_bytes,
                base64=True,
                background=given.background,
            )
        except Undecodable as refused:
            raise InvalidRequest([Problem(pointer, refused.code, refused.detail)]) from None
        return await self.keep(pixels, tenant=tenant)

    async def _of_job(self, pointer: str, job_id: str, index: int, tenant: str) -> Input:
        """Store a job's image as an input: a PNG keeps its `pixel_sha256`."""
        try:
            record = await self._store.read(job_id, tenant=tenant)
        except JobMissing as error:
            raise type(error)(f"{pointer}: {error}") from None
        image = next((i for i in record.images if i.index == index), None)
        if image is None:
            raise ImageMissing(f"{pointer}: the job is {record.status} and has no image {index}")
        data = await self._read(image.key)
        pixels = await self._decoders.decode(data, tenant=tenant, max_bytes=OWN_BYTES)
        return await self.keep(pixels, tenant=tenant)

    async def _resized(self, an_id: str, spec: JobSpec, tenant: str) -> str:
        assert spec.resize is not None, (
            "jobs/contract/resolve_inputs.py refuses another size without it"
        )
        found = await self.find(an_id, tenant=tenant)
        png = await self._read(input_blob_key(f"{tenant}/{an_id}/{found.blob}"))
        try:
            pixels = await self._decoders.resize(
                png, tenant=tenant, width=spec.width, height=spec.height, how=spec.resize
            )
        except Undecodable as refused:
            raise InvalidRequest([Problem("/resize", refused.code, refused.detail)]) from None
        return (await self.keep(pixels, tenant=tenant)).id

    async def _read(self, key: str) -> bytes:
        return await self._in_thread(lambda: b"".join(self._blobs.open(key).chunks()))

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        call = functools.partial(function, *args)
        return await anyio.to_thread.run_sync(call, limiter=self._threads)


def _pictures(asked: JobRequest) -> dict[str, Picture]:
    """Return the images of a request by JSON pointer."""
    control = asked.control.image if asked.control else None
    given = {"/image": asked.image, "/mask": asked.mask, "/control/image": control}
    return {pointer: picture for pointer, picture in given.items() if picture is not None}


def _with_pictures(asked: JobRequest, taken: Mapping[str, Picture]) -> JobRequest:
    """Return the request with the given images in place of its own, by pointer."""
    new: dict[str, Any] = {p[1:]: picture for p, picture in taken.items() if p.count("/") == 1}
    if asked.control and (steering := taken.get("/control/image")):
        new["control"] = asked.control.model_copy(update={"image": steering})
    return asked.model_copy(update=new)


def _with_inputs(spec: JobSpec, fitted: Mapping[str, str]) -> JobSpec:
    """Return the spec with the given inputs in place of its own."""
    new: dict[str, Any] = {
        name: fitted.get(an_id, an_id)
        for name, an_id in (("image", spec.image), ("mask", spec.mask))
        if an_id is not None
    }
    if spec.control:
        an_id = fitted.get(spec.control.image, spec.control.image)
        new["control"] = spec.control.model_copy(update={"image": an_id})
    return spec.model_copy(update=new)


def _check_used(asked: JobRequest, cut: Mapping[str, Bytes]) -> None:
    """Raise InvalidRequest if an extracted large string of the JSON is no image."""
    used = {picture.data for picture in _pictures(asked).values()}
    if not used.issuperset(cut):
        raise InvalidRequest([Problem("", "too_long", "only an image may be a string this long")])


@asynccontextmanager
async def open_intake(
    settings: ApiSettings, store: AsyncJobStore, blobs: BlobStore, threads: anyio.CapacityLimiter
) -> AsyncGenerator[ImageUploads]:
    """Open the image uploads for the block; a decoder starts when first needed."""
    async with Decoders(max_pixels=settings.max_input_pixels) as decoders:
        yield ImageUploads(settings, store, blobs, threads, decoders)
