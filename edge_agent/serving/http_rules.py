"""What is refused before anybody has looked at a request's content, and with which words."""

from collections.abc import Mapping

from edge_agent.serving.http_messages import Limits, Response, error_response


def refusal(headers: Mapping[bytes, bytes], limits: Limits) -> Response | None:
    """Return the refusal of a request with these headers, whose names are in lower case, or None."""
    if limits.refuse_origins and b"origin" in headers:
        return error_response(403, "Web pages may not use this port; call it without an Origin header.")
    if int(headers.get(b"content-length", 0)) > limits.max_body_bytes:
        return too_large(limits)
    coding = headers.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        name = coding.decode("latin-1")
        return error_response(
            501, f"Transfer-Encoding '{name}' is not supported; send the body plain or chunked."
        )
    return None


def too_large(limits: Limits) -> Response:
    """Return the refusal of a body that is larger than allowed."""
    limit = limits.max_body_bytes
    message = f"The request's body is larger than {limit} bytes; send less, or raise http.max_body_bytes."
    return error_response(413, message)


def too_many_bytes() -> Response:
    """Return the refusal of a body for which there is no memory beside those of other requests."""
    message = (
        "The requests of all clients together are too large for now; try again later, or send less at a time."
    )
    return error_response(503, message, (("Retry-After", "1"),))


def too_many_connections() -> Response:
    """Return what a client hears that is one too many."""
    message = (
        "There are too many connections; keep them open for several requests, or raise http.max_connections."
    )
    return error_response(503, message, (("Retry-After", "1"),))
