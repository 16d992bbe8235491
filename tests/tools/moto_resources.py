"""moto's server, checking policies on Secrets Manager as AWS does.

moto matches actions alone: it takes every resource for "*", so that a policy on a prefix
allows nothing, and a condition that does not hold for a refusal. Here a call has the ARN that
AWS gives it, `?` is a wildcard, the one condition of the documents is compared with the call,
and a secret created with tags needs TagResource too. Used by the test of the documents in
docs/stores/aws.md.
"""

import re
import sys
import threading

from moto import server, settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.iam.access_control import IAMPolicyStatement, IAMRequest, PermissionResult
from moto.secretsmanager.responses import SecretsManagerResponse

call = threading.local()


def resource(self):
    force = self._get_param("ForceDeleteWithoutRecovery")
    call.keys = {} if force is None else {
        "secretsmanager:ForceDeleteWithoutRecovery": str(force).lower()
    }
    if self._get_action() == "ListSecrets":
        return "*"
    name = self._get_param("SecretId") or self._get_param("Name")
    secret = self.backend.secrets.get(name)
    if secret is not None:
        return secret.arn
    return f"arn:aws:secretsmanager:{self.region}:{self.current_account}:secret:{name}-AbCdEf"


def match(pattern, text):
    pattern = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(pattern, text, re.DOTALL)


def statement(self, action, resource="*", _principal=None, _values=None):
    applies = self._check_element_matches("Action", action)
    applies = applies and self._check_element_matches("Resource", resource)
    for operator, keys in self._statement.get("Condition", {}).items():
        if operator != "Bool":
            raise NotImplementedError(operator)
        # A key that the call lacks matches nothing.
        applies = applies and all(call.keys.get(key) == value for key, value in keys.items())
    if not applies:
        return PermissionResult.NEUTRAL
    allowed = self._statement["Effect"] == "Allow"
    return PermissionResult.PERMITTED if allowed else PermissionResult.DENIED


create = SecretsManagerResponse.create_secret


def create_secret(self):
    enforced = ActionAuthenticatorMixin.request_count >= settings.INITIAL_NO_AUTH_ACTION_COUNT
    if enforced and self._get_param("Tags"):
        IAMRequest(
            account_id=self.current_account,
            method=self.method,
            path=self.raw_path,
            data=self.data,
            body=self.raw_body,
            headers=self.headers,
            action="TagResource",
        ).check_action_permitted(resource(self))
    return create(self)


SecretsManagerResponse._determine_resource = resource
SecretsManagerResponse.create_secret = create_secret
IAMPolicyStatement._match = staticmethod(match)
IAMPolicyStatement.is_action_permitted = statement
server.main(sys.argv[1:])
