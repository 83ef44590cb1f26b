"""The failure that a response without an answer, or an exception of the HTTP client, stands for."""

import aiohttp
from yarl import URL

from ..errors import UpstreamError
from ..openai.failures import read_failure

MAX_LOCATION_CHARS = 200


def status_failure(response: aiohttp.ClientResponse, body: bytes) -> UpstreamError:
    """The failure that a response with a status other than 200 stands for; `body` is all that was read."""
    if 300 <= response.status < 400:
        return UpstreamError("status", _describe_redirect(response), status=response.status)
    return read_failure(response.status, body, response.headers)


def _describe_redirect(response: aiohttp.ClientResponse) -> str:
    said = f"answered {response.status}"
    try:
        target = response.url.join(URL(response.headers["location"]))
        # Neither user nor query: either may hold a secret.
        where = str(target.with_user(None).with_query(None).with_fragment(None))[:MAX_LOCATION_CHARS]
    except (KeyError, ValueError, TypeError):
        return f"{said}, a redirect without an address"
    return f"{said}, a redirect to {where}: redirects are not followed, correct api_base"


def transport_failure(error: Exception) -> UpstreamError:
    """The failure that an exception of the HTTP client stands for. Its own words may hold addresses."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError("connect", "could not be connected to in time", status=504)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamError(
            "connect", "has a certificate that is not trusted (SSL_CERT_FILE names other authorities)"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError("connect", "cannot be connected to")
    if isinstance(error, aiohttp.ClientPayloadError):
        return UpstreamError("cut", "closed the connection in the middle of its answer")
    if isinstance(error, TimeoutError):
        return UpstreamError("timeout", "took longer than its time-out allows")
    return UpstreamError("reset", "closed the connection without an answer")
