"""The engine's errors, as one tree; a class carries an error code and retryability.

    PrintworksError
    └── EngineError
        ├── Unservable          the request fits no loaded model, sampler or pipeline
        ├── PipelineFailed      the pipeline's own code raised
        ├── NanOutput           the numbers turned to NaN or infinity
        ├── DegenerateOutput    the image is one flat colour
        ├── DeadlinePassed      its deadline passed before it was done
        ├── DeviceMemoryFull    it does not fit, even alone
        └── ModelBroken         a model cannot be loaded
    BaseException
    └── Dropped                 not an error: unwinds a canceled call

Each of these ends one image. What breaks the device itself (a CUDA abort) is not caught at all:
it ends the process, and the link on the other side hands the images back.
"""

from __future__ import annotations

from jobs.errors import PrintworksError


class EngineError(PrintworksError):
    """Root of the tree: one image cannot be made."""

    code = "engine_error"


class Unservable(EngineError):
    """No loaded model, sampler or pipeline can serve the request as it stands."""

    code = "unservable"


class PipelineFailed(EngineError):
    """The pipeline's own code raised; see the cause."""

    code = "pipeline_error"


class NanOutput(EngineError):
    """NaN or infinity in the latents or the image: other settings, or another dtype, may help."""

    code = "nan_output"


class DegenerateOutput(EngineError):
    """The image is one flat colour, which no prompt asks for."""

    code = "degenerate_output"


class DeadlinePassed(EngineError):
    """The request's own deadline passed before its image was done."""

    code = "deadline_exceeded"


class DeviceMemoryFull(EngineError):
    """The device has not enough memory for this image, even alone."""

    code = "out_of_memory"
    retryable = True


class ModelBroken(EngineError):
    """A model cannot be loaded; the message says which file and why."""

    code = "model_load_failed"


class Dropped(BaseException):
    """Cancellation, raised inside a parked call; BaseException, so that no pipeline eats it."""
