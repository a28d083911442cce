"""How the server listens and what it lets through."""

from pydantic import Field

from trivet._validation import Config


class ServerSettings(Config):
    """Address, bounds and times of a server.

    ``queue`` counts the answers of one system that run or wait; a request with ``n`` choices takes ``n``
    places.
    """

    host: str = Field("127.0.0.1", min_length=1, description="address to listen at")
    port: int = Field(8000, ge=0, le=65535, description="0 takes any free port")
    queue: int = Field(256, ge=1, description="answers of one system under way at once")
    time_limit: float = Field(600.0, gt=0, description="seconds that a request may take in all")
    grace: float = Field(30.0, ge=0, description="seconds in which requests may finish when the server stops")
    body_bytes: int = Field(4 * 1024**2, ge=1024, description="largest body of a request")
