"""A job that protects whole groups, from the owners' declarations to the adapter."""

import pytest

from umbel.client.home import Home


@pytest.mark.slow
def test_groups_are_protected_alike_between_machines(deployed_job, deploy, reference):
    job = deployed_job(
        privacy={"unit": "group", "epsilon": 20.0},
        data={"group_column": "document", "records_per_group": 2},
        evaluation={"epsilon": 10.0},
    )
    deployment = deploy(job)
    for home in deployment.owners.values():
        declared = Home.open(home.path).settings.data
        assert (declared.unit, declared.records_per_group) == ("group", 2)
    run = deployment.start().place(name="groups")
    result = deployment.finished(run)
    assert result["privacy"]["unit"] == "group"
    assert result["adapter_sha256"] == reference(deployment.job)
