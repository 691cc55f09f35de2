"""Providers' bills: GET and POST /provider-bills, /bill-fetches and /provider-projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.paginator import Paginator
from django.core.validators import ProhibitNullCharactersValidator
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers, status
from rest_framework.exceptions import ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from collectors.providers.files import BadFile
from costwatch.accounts.models import IngestKey
from costwatch.api.once import IDEMPOTENCY_KEY, once
from costwatch.api.parameters import whole_number
from costwatch.api.permissions import MayChangeMoney
from costwatch.api.reconciliation import END, FIRST, days_from, plain
from costwatch.api.scope import OrganizationView
from costwatch.reports import bill_fetches, bills
from costwatch.reports.bill_models import BillFetch, ProviderAccount, ProviderBillLine
from costwatch.reports.bill_projects import BilledProject, billed_projects, link

MOST = 1000
_MOST_PAGES = 100_000


class BillLineSerializer(serializers.Serializer[Any]):
    """What a provider asks for one thing on one day of UTC."""

    day = serializers.DateField()
    provider = serializers.CharField()
    account = serializers.CharField()
    project = serializers.CharField(help_text="or workspace; empty: the bill names none")
    text = serializers.CharField(help_text="what the bill calls it")
    model = serializers.CharField()
    meter = serializers.CharField(help_text="empty: it is for no tokens")
    service_tier = serializers.CharField(help_text="empty: standard")
    quantity = serializers.CharField(allow_null=True, help_text="tokens; null: the bill says none")
    amount = serializers.CharField(help_text="a decimal in the bill's currency")
    currency = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # a field of that name
    fetched_at = serializers.DateTimeField()

    def to_representation(self, line: ProviderBillLine) -> dict[str, Any]:
        bill = line.bill
        return {
            "day": bill.day.isoformat(),
            "provider": bill.provider,
            "account": bill.account,
            "project": line.project,
            "text": line.text,
            "model": line.model,
            "meter": line.meter,
            "service_tier": line.service_tier,
            "quantity": None if line.quantity is None else f"{line.quantity:f}",
            "amount": plain(line.amount),
            "currency": line.currency,
            "source": bill.source,
            "fetched_at": bill.fetched_at.isoformat(),
        }


class BillFileSerializer(serializers.Serializer[Any]):
    files = serializers.ListField(
        child=serializers.FileField(),
        min_length=1,
        max_length=bills.MOST_PARTS,
        help_text="the parts of one bill: FOCUS or AWS' Cost and Usage Report, CSV, gzipped or not",
    )

    def validate_files(self, files: Sequence[Any]) -> Sequence[Any]:
        size = sum(file.size for file in files)
        if size > bills.MOST_SENT_BYTES:
            raise serializers.ValidationError(
                f"{size:,} bytes: expected up to {bills.MOST_SENT_BYTES:,}; larger ones by: costwatch import_bill"
            )
        return files


class KeptSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField()
    account = serializers.CharField()
    days = serializers.IntegerField()
    lines = serializers.IntegerField()
    replaced = serializers.IntegerField(help_text="days that had a bill before")


class ProviderBillsView(OrganizationView):
    permission_classes = [MayChangeMoney]
    parser_classes = [MultiPartParser]

    @extend_schema(
        operation_id="provider_bills_list",
        summary="Lines of providers' bills, by day",
        parameters=[
            FIRST,
            END,
            OpenApiParameter("limit", int, description=f"1 to {MOST}; 100 without it."),
            OpenApiParameter("page", int, description="1 without it."),
        ],
        responses=inline_serializer(
            "ProviderBillsPage",
            {
                "results": BillLineSerializer(many=True),
                "count": serializers.IntegerField(help_text="on all pages"),
                "next_page": serializers.IntegerField(
                    allow_null=True, help_text="null: that was all"
                ),
            },
        ),
    )
    def get(self, request: Request) -> Response:
        first, last = days_from(request)
        found = (
            ProviderBillLine.objects.filter(
                bill__organization=self.organization, bill__day__gte=first, bill__day__lte=last
            )
            .select_related("bill")
            .order_by("bill__day", "bill__provider", "pk")
        )
        limit = whole_number(request, "limit", default=100, most=MOST)
        number = whole_number(request, "page", default=1, most=_MOST_PAGES)
        page = Paginator(found, limit).get_page(number)
        is_there = number == page.number
        rows = BillLineSerializer(page if is_there else found.none(), many=True).data
        return Response(
            {
                "results": rows,
                "count": page.paginator.count,
                "next_page": number + 1 if is_there and page.has_next() else None,
            }
        )

    @extend_schema(
        summary="Take a cloud's bill from its file",
        description="All or nothing; bad rows are named. A day that comes again takes the place of what was there, so "
        "the same file twice counts once.",
        request={"multipart/form-data": BillFileSerializer},
        responses={
            201: inline_serializer(
                "TakenBill",
                {
                    "format": serializers.CharField(help_text="FOCUS or CUR"),
                    "rows": serializers.IntegerField(),
                    "bills": KeptSerializer(many=True),
                    "left_out": serializers.DictField(
                        child=serializers.IntegerField(),
                        help_text="rows by service that runs no models",
                    ),
                },
            )
        },
    )
    def post(self, request: Request) -> Response:
        asked = BillFileSerializer(data={"files": request.FILES.getlist("files")})
        asked.is_valid(raise_exception=True)
        files = asked.validated_data["files"]
        try:
            taken = bills.take_files(
                self.organization,
                files,
                source=str(files[0].name),
                now=timezone.now(),
                actor=self.user,
                most_bytes=bills.MOST_UNPACKED_BYTES,
            )
        except BadFile as error:
            raise ValidationError({"files": [str(error), *error.rows]}) from None
        except bills.TooLong as error:
            raise ValidationError({"files": [str(error)]}) from None
        return Response(
            {
                "format": taken.format,
                "rows": taken.rows,
                "bills": KeptSerializer(taken.bills, many=True).data,
                "left_out": dict(taken.left_out),
            },
            status.HTTP_201_CREATED,
        )


class BillFetchSerializer(serializers.Serializer[Any]):
    """One day's fetch of an account, with what became of it."""

    provider = serializers.CharField()
    account = serializers.CharField()
    planned_for = serializers.DateField()
    first_day = serializers.DateField()
    last_day = serializers.DateField()
    state = serializers.ChoiceField(BillFetch.State.choices)
    attempts = serializers.IntegerField()
    next_attempt_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
    lines = serializers.IntegerField()
    last_error = serializers.CharField()

    def to_representation(self, fetch: BillFetch) -> dict[str, Any]:
        is_pending = fetch.state == BillFetch.State.PENDING
        as_they_are = ("state", "attempts", "lines", "last_error")
        days = ("planned_for", "first_day", "last_day")
        return {
            "provider": fetch.account.provider,
            "account": fetch.account.name,
            **{name: getattr(fetch, name).isoformat() for name in days},
            **{name: getattr(fetch, name) for name in as_they_are},
            "next_attempt_at": fetch.next_attempt_at.isoformat() if is_pending else None,
            "ended_at": fetch.ended_at.isoformat() if fetch.ended_at else None,
        }


class FetchAgainSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField(max_length=64)
    account = serializers.CharField(max_length=100, default="main")
    days = serializers.IntegerField(
        min_value=1, max_value=bills.MOST_DAYS, required=False, help_text="up to yesterday"
    )


class BillFetchesView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="bill_fetches_list",
        summary="What became of the last hundred fetches of bills, the latest first",
        responses=inline_serializer("BillFetchesPage", {"results": BillFetchSerializer(many=True)}),
    )
    def get(self, request: Request) -> Response:
        found = BillFetch.objects.filter(account__organization=self.organization)
        rows = found.select_related("account")[:100]
        return Response({"results": BillFetchSerializer(rows, many=True).data})

    @extend_schema(
        summary="Fetch an account's bills once more, within a minute",
        parameters=[IDEMPOTENCY_KEY],
        request=FetchAgainSerializer,
        responses={202: BillFetchSerializer},
    )
    @once
    def post(self, request: Request) -> Response:
        asked = FetchAgainSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        said = asked.validated_data
        account = ProviderAccount.objects.filter(
            organization=self.organization,
            provider=said["provider"],
            name=said["account"],
            active=True,
        ).first()
        if account is None:
            raise ValidationError(
                {"account": [f"no active account {said['account']!r} of {said['provider']!r}"]}
            )
        fetch = bill_fetches.again(account, timezone.now(), days=said.get("days"))
        self.record("bills.fetched", account, {"days": said.get("days")})
        return Response(BillFetchSerializer(fetch).data, status.HTTP_202_ACCEPTED)


class ProviderProjectSerializer(serializers.Serializer[Any]):
    provider = serializers.CharField()
    project = serializers.CharField()
    billed = serializers.DictField(child=serializers.CharField(), help_text="by currency")
    keys = serializers.ListField(
        child=serializers.IntegerField(), help_text="ids of ingest keys that send for it"
    )

    def to_representation(self, one: BilledProject) -> dict[str, Any]:
        return {
            "provider": one.provider,
            "project": one.project,
            "billed": {currency: plain(amount) for currency, amount in one.billed},
            "keys": [key.pk for key in one.keys],
        }


class LinkSerializer(serializers.Serializer[Any]):
    """What a key sends of a provider is compared with the bill of a project."""

    provider = serializers.CharField(max_length=64, validators=[ProhibitNullCharactersValidator()])
    project = serializers.CharField(
        max_length=300,
        default="",
        allow_blank=True,
        validators=[ProhibitNullCharactersValidator()],
        help_text="empty: of none, any more",
    )
    key = serializers.PrimaryKeyRelatedField(queryset=IngestKey.objects.none())

    def get_fields(self) -> dict[str, Any]:
        fields: Mapping[str, Any] = super().get_fields()
        if (organization := self.context.get("organization")) is not None:
            keys = IngestKey.objects.filter(organization=organization)
            fields["key"].queryset = keys
        return dict(fields)


class ProviderProjectsView(OrganizationView):
    permission_classes = [MayChangeMoney]

    @extend_schema(
        operation_id="provider_projects_list",
        summary="Projects that bills name, with the ingest keys that send for them",
        parameters=[FIRST, END],
        responses=inline_serializer(
            "ProviderProjectsPage", {"results": ProviderProjectSerializer(many=True)}
        ),
    )
    def get(self, request: Request) -> Response:
        found = billed_projects(self.organization, *days_from(request))
        return Response({"results": ProviderProjectSerializer(found, many=True).data})

    @extend_schema(
        summary="Link an ingest key to a project, or to none",
        parameters=[IDEMPOTENCY_KEY],
        request=LinkSerializer,
        responses={201: LinkSerializer},
    )
    @once
    def post(self, request: Request) -> Response:
        asked = LinkSerializer(data=request.data, context={"organization": self.organization})
        asked.is_valid(raise_exception=True)
        said = asked.validated_data
        link(self.organization, said["provider"], said["project"], said["key"], self.user)
        return Response(
            {**said, "key": said["key"].pk},
            status.HTTP_201_CREATED,
        )
