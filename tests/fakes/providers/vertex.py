"""Vertex AI: Gemini's bodies under Google Cloud's paths, with tokens that a service account gets."""

import functools
import json
import re

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .gemini import FIELDS, SETTINGS, GeminiRules, refuse
from .server import KEY, Request, Response

PROJECT = "press-4711"
LOCATION = "europe-west4"
ACCOUNT = f"gateway@{PROJECT}.iam.gserviceaccount.com"
TOKEN = "ya29.of-the-provider"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCE = "https://oauth2.googleapis.com/token"
"""Whom an assertion is for: google-auth writes this address into all of them, not that of `token_uri`."""
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@functools.cache
def make_key() -> rsa.RSAPrivateKey:
    """The key of the service account, made once for a run of the tests."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def make_account(address: str) -> str:
    """The JSON that Google's console hands out for a service account, with this server's token service."""
    text = make_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": KEY,
        "private_key": text.decode(),
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": f"{address}/token",
    }
    return json.dumps(account)


class VertexRules(GeminiRules):
    """What Vertex AI takes and answers, and Google's token service before it.

    References: `projects.locations.publishers.models.generateContent`; OAuth 2.0 for server to server
    applications (RFC 7523).
    """

    path = re.compile(
        r"/v1(?:beta1)?/projects/(?P<project>[^/]+)/locations/(?P<location>[^/]+)"
        r"/publishers/google/models/(?P<model>[\w.-]+):(?P<method>generateContent|streamGenerateContent)"
    )
    # `system_instruction` too: ProtoJSON parsers take a field by its name in the protocol buffer.
    fields = FIELDS - {"store", "serviceTier"} | {"modelArmorConfig"}
    settings = SETTINGS - {"enableEnhancedCivicAnswers"} | {"audioTimestamp", "routingConfig", "modelConfig"}

    def answer(self, request: Request) -> Response:
        return self._sign_in(request) if request.path == "/token" else super().answer(request)

    def _sign_in(self, request: Request) -> Response:
        """A token for a signed assertion; the refusals are OAuth's."""
        if request.body.get("grant_type") != GRANT:
            return _refuse_grant("unsupported_grant_type", "Invalid grant_type")
        assertion = request.body["assertion"]
        if jwt.get_unverified_header(assertion).get("kid") != KEY:
            return _refuse_grant("invalid_grant", "Invalid JWT Signature.")
        try:
            claims = jwt.decode(assertion, make_key().public_key(), algorithms=["RS256"], audience=AUDIENCE)
        except jwt.InvalidTokenError:
            return _refuse_grant("invalid_grant", "Invalid JWT Signature.")
        if claims["iss"] != ACCOUNT:
            return _refuse_grant("invalid_grant", "Invalid grant: account not found")
        if SCOPE not in claims["scope"].split():
            return _refuse_grant("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        return Response.of_json({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"})

    def _check_access(self, request: Request, match: re.Match[str]) -> Response | None:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return refuse(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
                "or other valid authentication credential.",
                "ACCESS_TOKEN_TYPE_UNSUPPORTED",
            )
        resource = f"projects/{match['project']}/locations/{match['location']}"
        resource += f"/publishers/google/models/{match['model']}"
        if match["project"] != PROJECT:
            return refuse(
                403,
                f"Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform.googleapis.com/"
                f"{resource}' (or it may not exist).",
                "IAM_PERMISSION_DENIED",
            )
        if match["location"] != LOCATION or not match["model"].startswith("gemini-"):
            return refuse(
                404,
                f"Publisher Model `{resource}` was not found or your project does not have access to it.",
            )
        for turn in request.body.get("contents", ()):
            if turn.get("role") not in ("user", "model", "function"):  # Gemini's own API fills it in
                return refuse(400, "Please use a valid role: user, model.")
        return None

    def _refuse_rate(self) -> Response:
        # Vertex AI names no time to wait for.
        return refuse(429, "Resource exhausted. Please try again later.")


def _refuse_grant(error: str, description: str) -> Response:
    return Response.of_json({"error": error, "error_description": description}, 400)


VERTEX = VertexRules()
