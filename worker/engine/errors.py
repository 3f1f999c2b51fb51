"""What can go wrong with one image, as one tree; the class carries code and retryability.

    PrintworksError
    └── EngineError
        ├── Unservable          the request fits no loaded model, sampler or pipeline
        ├── PipelineFailed      the pipeline's own code raised
        ├── NanOutput           the numbers turned to NaN or infinity
        ├── DegenerateOutput    the picture is one flat colour
        ├── DeadlinePassed      its time was over before it was done
        ├── DeviceMemoryFull    it does not fit, even alone
        └── ModelBroken         a model cannot be loaded
    BaseException
    └── Dropped                 not an error: what unwinds a canceled call

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
    """The pipeline's own code raised; the cause says what."""

    code = "pipeline_error"


class NanOutput(EngineError):
    """NaN or infinity in the latents or the picture: other settings, or another dtype, may do."""

    code = "nan_output"


class DegenerateOutput(EngineError):
    """The picture is one flat colour, which no prompt asks for."""

    code = "degenerate_output"


class DeadlinePassed(EngineError):
    """The request's own deadline passed before its picture was done."""

    code = "deadline_exceeded"


class DeviceMemoryFull(EngineError):
    """The device has not enough memory for this image, even alone."""

    code = "out_of_memory"
    retryable = True


class ModelBroken(EngineError):
    """A model cannot be loaded; the message says which file and why."""

    code = "model_load_failed"


class Dropped(BaseException):
    """Raised inside a parked call that is canceled; BaseException, so that no pipeline eats it."""
