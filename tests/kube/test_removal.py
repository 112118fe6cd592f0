"""`remove --with-crds` on a server that takes its time. (A real one may take a minute for a kind just made.)"""

from __future__ import annotations

import asyncio

from aiohttp import web

from hostagent.edges.kube.access import Outcome, objects, remove
from tests.kube.fake_api import api_at, failure, serve

MANIFESTS = """
{apiVersion: v1, kind: Namespace, metadata: {name: metallb-system}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: ipaddresspools.metallb.io}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: rules, namespace: metallb-system}}
"""

KINDS = {
    "/api/v1": [("namespaces", "Namespace", False), ("configmaps", "ConfigMap", True)],
    "/apis/apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
}


def test_everything_goes_in_reverse_and_is_gone_in_the_end() -> None:
    async def body() -> None:
        looks: dict[str, int] = {}

        async def script(request: web.Request) -> web.StreamResponse:
            if request.path in KINDS:
                found = [{"name": n, "kind": k, "namespaced": s} for n, k, s in KINDS[request.path]]
                return web.json_response({"resources": found})
            if request.method == "DELETE":
                return failure(404, "NotFound") if "configmaps" in request.path else web.json_response({})
            looks[request.path] = looks.get(request.path, 0) + 1
            finalized = looks[request.path] > 1
            return failure(404, "NotFound") if finalized else web.json_response({"metadata": {"finalizers": ["x"]}})

        async with serve(script) as fake, api_at(fake.url) as api:
            done = await remove(api, objects([MANIFESTS], namespace="lb"), with_crds=True)
            assert [(each.name, each.outcome) for each in done] == [
                ("lb/rules", Outcome.ABSENT),
                ("ipaddresspools.metallb.io", Outcome.DELETED),
                ("lb", Outcome.DELETED),
            ]
            assert set(looks.values()) == {2}

    asyncio.run(asyncio.wait_for(body(), 30))
