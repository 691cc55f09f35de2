"""What observations have in common moves into profiles, what each says for itself into columns.

The text of JSON per span was most of what ingest wrote and read. The ledger's key begins with the beginning of the
call, so that rows of now lie together and listing calls needs no second index; batches carry their sums, so that
adding them reads no entry.
"""

import django.db.models.deletion
from django.db import migrations, models

OWN = (
    "time_to_first_token_ns",
    "time_per_output_token_ns",
    "queue_ns",
    "prefill_ns",
    "decode_ns",
    "device_ns",
    "device_ns_marginal",
    "device_ns_alone",
    "energy_uj",
    "prefix_repeated_tokens",
)
USAGE = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_write_input_tokens",
    "output_tokens",
    "reasoning_output_tokens",
)
COMMON = f"""
(facts - '{{start_unix_ns,end_unix_ns,response_id,usage,{",".join(OWN)}}}'::text[])
    #- '{{tags,user}}' #- '{{tags,session}}'
"""
SPAN_COLUMNS = f"""
ALTER TABLE attribution_span
    ADD COLUMN profile_id bigint, ADD COLUMN duration_ns bigint,
    {", ".join(f"ADD COLUMN {name} bigint" for name in (*USAGE, *OWN))},
    ADD COLUMN start_rest_ns smallint NOT NULL DEFAULT 0,
    ADD COLUMN response_id text, ADD COLUMN end_user text, ADD COLUMN session text, ADD COLUMN tags jsonb
"""
SPAN_PROFILES = f"""
INSERT INTO attribution_profile (organization_id, key_id, digest, facts)
SELECT DISTINCT organization_id, key_id, md5(({COMMON})::text)::uuid, {COMMON}
  FROM attribution_span WHERE call_id IS NOT NULL
"""
SPAN_OBSERVATIONS = f"""
UPDATE attribution_span AS span SET
       profile_id = profile.id,
       start_rest_ns = (span.facts->>'start_unix_ns')::bigint % 1000,
       duration_ns = (span.facts->>'end_unix_ns')::bigint - (span.facts->>'start_unix_ns')::bigint,
       {", ".join(f"{name} = (span.facts->'usage'->>'{name}')::bigint" for name in USAGE)},
       {", ".join(f"{name} = (span.facts->>'{name}')::bigint" for name in OWN)},
       response_id = span.facts->>'response_id',
       end_user = span.facts->'tags'->>'user', session = span.facts->'tags'->>'session'
  FROM attribution_profile AS profile
 WHERE profile.organization_id = span.organization_id AND profile.key_id = span.key_id
   AND profile.digest = md5(({COMMON.replace("(facts", "(span.facts")})::text)::uuid AND span.call_id IS NOT NULL
"""
SPAN_LINKS = (
    "UPDATE attribution_span SET tags = facts->'tags' WHERE call_id IS NULL AND facts IS NOT NULL"
)
SPAN_KEYS = """
ALTER TABLE attribution_span DROP CONSTRAINT attribution_span_pkey;
ALTER TABLE attribution_span ADD CONSTRAINT attribution_span_pkey
    PRIMARY KEY (span_key, started_at, organization_id);
DROP INDEX span_by_call, span_by_parent;
CREATE INDEX span_by_call ON attribution_span (call_id) WHERE call_id IS NOT NULL;
CREATE INDEX span_by_parent ON attribution_span (parent_key) WHERE parent_key IS NOT NULL;
"""
# identity.py keeps a bit of each id for itself.
CALL_IDS = "; ".join(
    f"""
UPDATE attribution_{table} SET call_id = (
       lpad(to_hex(('x' || left(call_id::text, 2))::bit(8)::int & 254), 2, '0') || substr(call_id::text, 3))::uuid
 WHERE call_id IS NOT NULL
"""
    for table in ("span", "entry")
)
SPAN_FACTS = "ALTER TABLE attribution_span DROP COLUMN facts, DROP COLUMN key_id"
ENTRY = """
ALTER TABLE attribution_entry DROP CONSTRAINT attribution_entry_pkey;
ALTER TABLE attribution_entry ADD CONSTRAINT attribution_entry_pkey
    PRIMARY KEY (organization_id, started_at, call_id, revision, sign);
DROP INDEX entry_by_time;
"""
# Batches that wait to be added were written without their sums.
SUMS = """
UPDATE attribution_batch AS batch SET sums = jsonb_build_object(
    'usage', coalesce((
        SELECT jsonb_agg(jsonb_build_array(hour, source_id, offering_id, calls, failed, unknown, contradicted,
                   input, cache_read, cache_write, output, reasoning, device, marginal, alone, energy, repeated, repeated_device))
          FROM (SELECT (floor(extract(epoch FROM started_at) / 3600)::bigint) AS hour, source_id, offering_id,
                       sum(sign) AS calls, coalesce(sum(sign) FILTER (WHERE failed), 0) AS failed,
                       coalesce(sum(sign) FILTER (WHERE NOT usage_known), 0) AS unknown,
                       coalesce(sum(sign) FILTER (WHERE contradicted), 0) AS contradicted,
                       coalesce(sum(input_tokens), 0) AS input,
                       coalesce(sum(cache_read_input_tokens), 0) AS cache_read,
                       coalesce(sum(cache_write_input_tokens), 0) AS cache_write,
                       coalesce(sum(output_tokens), 0) AS output,
                       coalesce(sum(reasoning_output_tokens), 0) AS reasoning,
                       coalesce(sum(device_ns), 0) AS device, coalesce(sum(device_ns_marginal), 0) AS marginal,
                       coalesce(sum(device_ns_alone), 0) AS alone, coalesce(sum(energy_uj), 0) AS energy,
                       coalesce(sum(prefix_repeated_tokens), 0) AS repeated,
                       coalesce(sum(repeated_device_ns), 0) AS repeated_device
                  FROM attribution_entry WHERE batch_id = batch.id GROUP BY 1, 2, 3) AS hours), '[]'),
    'latency', coalesce((
        SELECT jsonb_agg(jsonb_build_array(hour, source_id, offering_id, measure, bucket, calls))
          FROM (SELECT (floor(extract(epoch FROM started_at) / 3600)::bigint) AS hour, source_id, offering_id, measure,
                       CASE WHEN ns > 1 THEN ceil(ln(ns::double precision) / ln(1.02::double precision / 0.98)) ELSE 0 END AS bucket,
                       sum(sign) AS calls
                  FROM attribution_entry CROSS JOIN LATERAL (VALUES
                       ('duration', duration_ns), ('time_to_first_token', time_to_first_token_ns),
                       ('time_per_output_token', time_per_output_token_ns), ('queue', queue_ns)) AS one (measure, ns)
                 WHERE batch_id = batch.id AND ns IS NOT NULL
                 GROUP BY 1, 2, 3, 4, 5 HAVING sum(sign) <> 0) AS hours), '[]'))
 WHERE added_at IS NULL
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
        ("attribution", "0004_sums_of_38_digits"),
    ]

    operations = [
        migrations.CreateModel(
            name="Profile",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "organization",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="accounts.organization"
                    ),
                ),
                (
                    "key",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, to="accounts.ingestkey"
                    ),
                ),
                ("digest", models.UUIDField()),
                ("facts", models.JSONField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("organization", "key", "digest"), name="profile_unique"
                    )
                ],
                "indexes": [],
            },
        ),
        migrations.AddField("batch", "sums", models.JSONField(null=True)),
        migrations.RunSQL(SUMS, migrations.RunSQL.noop),
        migrations.RunSQL(
            [
                SPAN_COLUMNS,
                SPAN_PROFILES,
                SPAN_OBSERVATIONS,
                SPAN_LINKS,
                CALL_IDS,
                SPAN_FACTS,
                SPAN_KEYS,
            ],
            state_operations=[
                migrations.DeleteModel("Span"),
                migrations.CreateModel(
                    name="Span",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "span_key",
                                "started_at",
                                "organization",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "organization",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                to="accounts.organization",
                            ),
                        ),
                        ("started_at", models.DateTimeField()),
                        (
                            "profile",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                null=True,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                to="attribution.profile",
                            ),
                        ),
                        ("duration_ns", models.BigIntegerField(null=True)),
                        ("input_tokens", models.BigIntegerField(null=True)),
                        ("cache_read_input_tokens", models.BigIntegerField(null=True)),
                        ("cache_write_input_tokens", models.BigIntegerField(null=True)),
                        ("output_tokens", models.BigIntegerField(null=True)),
                        ("reasoning_output_tokens", models.BigIntegerField(null=True)),
                        ("time_to_first_token_ns", models.BigIntegerField(null=True)),
                        ("time_per_output_token_ns", models.BigIntegerField(null=True)),
                        ("queue_ns", models.BigIntegerField(null=True)),
                        ("prefill_ns", models.BigIntegerField(null=True)),
                        ("decode_ns", models.BigIntegerField(null=True)),
                        ("device_ns", models.BigIntegerField(null=True)),
                        ("device_ns_marginal", models.BigIntegerField(null=True)),
                        ("device_ns_alone", models.BigIntegerField(null=True)),
                        ("energy_uj", models.BigIntegerField(null=True)),
                        ("prefix_repeated_tokens", models.BigIntegerField(null=True)),
                        ("span_key", models.UUIDField()),
                        ("parent_key", models.UUIDField(null=True)),
                        ("call_id", models.UUIDField(null=True)),
                        ("start_rest_ns", models.SmallIntegerField(default=0)),
                        ("wraps", models.BooleanField(default=False)),
                        ("trace_id", models.BinaryField(max_length=16, null=True)),
                        ("span_id", models.BinaryField(max_length=8, null=True)),
                        ("response_id", models.TextField(null=True)),
                        ("end_user", models.TextField(null=True)),
                        ("session", models.TextField(null=True)),
                        ("tags", models.JSONField(null=True)),
                    ],
                    options={
                        "indexes": [
                            models.Index(
                                condition=models.Q(("call_id__isnull", False)),
                                fields=["call_id"],
                                name="span_by_call",
                            ),
                            models.Index(
                                condition=models.Q(("parent_key__isnull", False)),
                                fields=["parent_key"],
                                name="span_by_parent",
                            ),
                        ],
                        "constraints": [],
                    },
                ),
            ],
        ),
        # In Django's words a composite key cannot change.
        migrations.RunSQL(
            [ENTRY, "DROP INDEX entry_by_batch"],
            state_operations=[
                migrations.DeleteModel("Entry"),
                migrations.CreateModel(
                    name="Entry",
                    fields=[
                        (
                            "pk",
                            models.CompositePrimaryKey(
                                "organization",
                                "started_at",
                                "call_id",
                                "revision",
                                "sign",
                                blank=True,
                                editable=False,
                                primary_key=True,
                                serialize=False,
                            ),
                        ),
                        (
                            "organization",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                to="accounts.organization",
                            ),
                        ),
                        ("started_at", models.DateTimeField()),
                        ("batch_id", models.BigIntegerField()),
                        (
                            "source",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                to="attribution.source",
                            ),
                        ),
                        (
                            "offering",
                            models.ForeignKey(
                                db_constraint=False,
                                db_index=False,
                                on_delete=django.db.models.deletion.DO_NOTHING,
                                to="attribution.offering",
                            ),
                        ),
                        ("input_tokens", models.BigIntegerField(null=True)),
                        ("cache_read_input_tokens", models.BigIntegerField(null=True)),
                        ("cache_write_input_tokens", models.BigIntegerField(null=True)),
                        ("output_tokens", models.BigIntegerField(null=True)),
                        ("reasoning_output_tokens", models.BigIntegerField(null=True)),
                        ("device_ns", models.BigIntegerField(null=True)),
                        ("device_ns_marginal", models.BigIntegerField(null=True)),
                        ("device_ns_alone", models.BigIntegerField(null=True)),
                        ("energy_uj", models.BigIntegerField(null=True)),
                        ("prefix_repeated_tokens", models.BigIntegerField(null=True)),
                        ("repeated_device_ns", models.BigIntegerField(null=True)),
                        ("duration_ns", models.BigIntegerField(null=True)),
                        ("time_to_first_token_ns", models.BigIntegerField(null=True)),
                        ("time_per_output_token_ns", models.BigIntegerField(null=True)),
                        ("queue_ns", models.BigIntegerField(null=True)),
                        ("call_id", models.UUIDField()),
                        ("revision", models.SmallIntegerField()),
                        ("sign", models.SmallIntegerField()),
                        ("failed", models.BooleanField()),
                        ("usage_known", models.BooleanField()),
                        ("contradicted", models.BooleanField()),
                    ],
                    options={
                        "verbose_name_plural": "entries",
                        "constraints": [
                            models.CheckConstraint(
                                condition=models.Q(("sign__in", [1, -1])), name="entry_sign"
                            )
                        ],
                        "indexes": [],
                    },
                ),
            ],
        ),
    ]
