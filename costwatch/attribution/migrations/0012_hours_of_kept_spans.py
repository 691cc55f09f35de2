"""The hours of the spans that were kept before metrics counted: metrics of then are not to count beside them."""

from django.db import migrations

FILL = """
INSERT INTO attribution_spannedhour (organization_id, hour, service_name, environment, model, vantage)
SELECT DISTINCT seen.organization_id, hour, left(coalesce(facts->>'service_name', ''), 255),
       left(coalesce(facts->>'environment', ''), 255), model, facts->>'vantage'
  FROM (SELECT DISTINCT organization_id, profile_id, date_trunc('hour', started_at, 'UTC') AS first,
               date_trunc('hour', started_at + least(duration_ns / 1000 * interval '1 microsecond', interval '24 hours'), 'UTC') AS last
          FROM attribution_span WHERE profile_id IS NOT NULL) AS seen
  JOIN attribution_profile AS profile ON profile.id = profile_id
 CROSS JOIN generate_series(first, last, interval '1 hour') AS hour
 CROSS JOIN LATERAL (
       SELECT left(lower(regexp_replace(name, '^.*/', '')), 255)
         FROM (VALUES (facts->>'request_model'), (facts->>'response_model')) AS said (name)
        WHERE name <> ''
        UNION
       SELECT '' WHERE coalesce(facts->>'request_model', facts->>'response_model', '') = ''
       ) AS named (model)
 WHERE NOT coalesce((facts->>'is_wrapper')::boolean, false)
ON CONFLICT DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [("attribution", "0011_spanned_hours_by_vantage")]

    operations = [migrations.RunSQL(FILL, migrations.RunSQL.noop)]
