"""Bills of providers: files, and whose telemetry a project's bill is compared with."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile

from costwatch.accounts.models import IngestKey, Organization
from costwatch.reports import bills


class _Files(forms.ClearableFileInput):
    allow_multiple_selected = True


class _FilesField(forms.FileField):
    """All files that were chosen, not the last one alone."""

    widget = _Files(attrs={"accept": ".csv,.gz,text/csv"})

    def clean(self, data: Any, initial: Any = None) -> list[UploadedFile[bytes]]:
        files = data if isinstance(data, (list, tuple)) else [data]
        found = [super(_FilesField, self).clean(file, initial) for file in files or [None]]
        size = sum(file.size or 0 for file in found)
        if size > bills.MOST_SENT_BYTES or len(found) > bills.MOST_PARTS:
            raise forms.ValidationError(
                f"{len(found)} files of {size:,} bytes: expected up to {bills.MOST_PARTS} of "
                f"{bills.MOST_SENT_BYTES:,}; larger ones by the command import_bill"
            )
        return found


class BillFileForm(forms.Form):
    parts = _FilesField(
        label="CSV file, gzipped or not",
        help_text="FOCUS 1.0 or later, or AWS' Cost and Usage Report. The parts of one bill belong together.",
    )


class ProjectForm(forms.Form):
    """No project: the key is of none any more."""

    provider = forms.CharField(max_length=64)
    project = forms.CharField(max_length=300, required=False)
    key = forms.ModelChoiceField(IngestKey.objects.none(), empty_label=None)

    def __init__(self, *args: Any, organization: Organization, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        key = self.fields["key"]
        assert isinstance(key, forms.ModelChoiceField)
        key.queryset = IngestKey.objects.filter(organization=organization).order_by("name", "pk")
