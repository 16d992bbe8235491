"""Makes, reads, changes and deletes a secret with a client made from docs/openapi.json.

Arguments: the directory that the client is in, and the service's URL.
"""

import sys

sys.path.insert(0, sys.argv[1])

from vaultmux_client import Client
from vaultmux_client.api.secrets import (
    batch_get_secrets,
    create_secret,
    delete_secret,
    list_secrets,
    list_versions,
    read_secret,
    update_secret,
)
from vaultmux_client.models import (
    BatchGet,
    BatchGetItem,
    CreateSecret,
    Problem,
    UpdateSecret,
)

client = Client(base_url=sys.argv[2], headers={"x-vaultmux-request": "true"})
name = "prod/made-by-python"

created = create_secret.sync(client=client, body=CreateSecret(name=name, value="one"))
assert created.name == name, created
taken = create_secret.sync(client=client, body=CreateSecret(name=name, value="two"))
assert isinstance(taken, Problem) and taken.code.value == "already_exists", taken

answer = read_secret.sync_detailed(name, client=client)
assert answer.parsed.value == "one", answer.parsed
tag = answer.headers["etag"]
updated = update_secret.sync(name, client=client, body=UpdateSecret(value="two"), if_match=tag)
assert updated.version == "2", updated
lost = update_secret.sync(name, client=client, body=UpdateSecret(value="three"), if_match=tag)
assert isinstance(lost, Problem) and lost.status == 412, lost

assert name in list_secrets.sync(client=client, prefix="prod/made", limit=10).secrets
versions = list_versions.sync(name, client=client).versions
assert [version.version for version in versions] == ["2", "1"], versions
items = [BatchGetItem(name=name), BatchGetItem(name="other/key")]
many = batch_get_secrets.sync(client=client, body=BatchGet(secrets=items))
assert many.secrets[0].value == "two", many
assert many.errors[0].code.value == "forbidden", many

assert delete_secret.sync_detailed(name, client=client).status_code == 204
gone = read_secret.sync(name, client=client)
assert isinstance(gone, Problem) and gone.error == "secret not found", gone
print("done")
