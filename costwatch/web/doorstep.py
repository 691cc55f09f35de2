"""What is answered before anything else looks at a request."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

HEALTH = "/health"


class Doorstep:
    """Says that the process is up, to whoever asks from wherever; and keeps out what no browser sends.

    A load balancer or a supervisor asks for an address, not for a host name that we answer to, and without TLS.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info == HEALTH:
            return HttpResponse("ok\n", content_type="text/plain")
        if any("\x00" in value for value in request.COOKIES.values()):
            # The session's key goes to Postgres, which takes no NUL.
            return HttpResponse("a cookie holds a NUL; clear this site's cookies\n", status=400)
        return self._get_response(request)
