"""What our credential is good for, in the API server's own words."""

from __future__ import annotations

import msgspec

from hostagent.edges.kube.transport import Api

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


async def may(api: Api, verb: str, resource: str, *, group: str = "", name: str = "", timeout_s: float) -> bool:
    """Whether RBAC lets us do this in all namespaces; `resource` may have a subresource behind a slash.

    Everybody who is authenticated may ask (ClusterRole system:basic-user). Raises EdgeError when the API does not
    answer, or was told to keep even that from us.
    """
    plain, _, subresource = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": plain, "subresource": subresource, "name": name}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    reply = await api.request("POST", _REVIEWS, body=msgspec.json.encode(body), timeout_s=timeout_s)
    return bool(msgspec.json.decode(reply)["status"]["allowed"])
