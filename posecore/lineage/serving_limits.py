"""How much a served model takes: settings of the server, not of the client."""

from pydantic import Field

from posecore.config import Config


class ServingLimits(Config):
    """Stored with a registered model as MLflow's ``model_config``, and overridden there when it is loaded or served.

    The last three hold for requests over HTTP; a job in one process may hand over a table of any length, which is
    answered a batch at a time.

    Attributes:
        max_pixels: of one picture, width × height as its header states; a larger one is not decoded.
        max_total_pixels: of all pictures of a request together; once they are reached, no further one is decoded.
        max_bodies: rows of a request.
        max_bytes: of a request's body, base64 included; nothing beyond is kept in memory.
    """

    max_pixels: int = Field(default=50_000_000, gt=0)
    max_total_pixels: int = Field(default=400_000_000, gt=0)
    max_bodies: int = Field(default=256, gt=0)
    max_bytes: int = Field(default=64 << 20, gt=0)
