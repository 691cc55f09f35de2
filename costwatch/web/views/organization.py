"""Which of a person's organizations is shown."""

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from costwatch.accounts.memberships import ORGANIZATION_KEY
from costwatch.web.scope import Scope


@require_POST
def choose(request: HttpRequest, scope: Scope) -> HttpResponse:
    """Show another organization from here on. One that the person does not belong to is not there."""
    wanted = request.POST.get("organization", "")
    for organization in scope.organizations:
        if str(organization.pk) == wanted:
            request.session[ORGANIZATION_KEY] = organization.pk
            return redirect("overview")
    raise Http404(f"no organization {wanted!r} among yours")
