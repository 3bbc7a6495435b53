mock_provider "google" {
  source = "../../mocks"
}

variables {
  project_id = "test-project"
  name       = "slipway-github"
  prefix     = "slipway"
  repository = { id = "123456", owner_id = "654321" }
  accounts = {
    release = { description = "Pushes images", refs = ["refs/heads/main"] }
    deploy  = { description = "Applies Terraform", environments = ["prod"], project_roles = ["roles/container.developer"] }
  }
}

run "only_this_repository_from_these_refs" {
  assert {
    condition     = google_iam_workload_identity_pool_provider.github.attribute_condition == "assertion.repository_id == '123456' && assertion.repository_owner_id == '654321' && (assertion.ref == 'refs/heads/main' || (has(assertion.environment) && assertion.environment == 'prod'))"
    error_message = "the condition names repository, owner, and refs or environments"
  }
  assert {
    condition     = google_iam_workload_identity_pool_provider.github.oidc[0].issuer_uri == "https://token.actions.githubusercontent.com"
    error_message = "GitHub's issuer"
  }
}

run "each_account_for_its_own_job" {
  assert {
    condition = { for key, one in google_service_account_iam_member.github : key => one.member } == {
      "deploy environment prod"     = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github.name}/attribute.environment/prod"
      "release ref refs/heads/main" = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.github.name}/attribute.ref/refs/heads/main"
    }
    error_message = "main is not enough to deploy, prod's environment not needed to push"
  }
  assert {
    condition     = keys(google_project_iam_member.role) == ["deploy roles/container.developer"]
    error_message = "roles as listed"
  }
  assert {
    condition     = output.provider == google_iam_workload_identity_pool_provider.github.name && output.accounts["release"].email == google_service_account.job["release"].email && output.accounts["deploy"].member == google_service_account.job["deploy"].member
    error_message = "what the workflows need"
  }
}

run "refuses_googles_own_prefix" {
  command = plan
  variables { name = "gcp-github" }
  expect_failures = [var.name]
}

run "refuses_the_name_of_a_repository" {
  command = plan
  variables { repository = { id = "owner/name", owner_id = "654321" } }
  expect_failures = [var.repository]
}

run "refuses_an_account_for_every_branch" {
  command = plan
  variables { accounts = { release = { description = "" } } }
  expect_failures = [var.accounts]
}

run "refuses_pull_requests" {
  command = plan
  variables { accounts = { release = { description = "", refs = ["refs/pull/7/merge"] } } }
  expect_failures = [var.accounts]
}

run "refuses_an_environment_that_breaks_out_of_the_condition" {
  command = plan
  variables { accounts = { release = { description = "", environments = ["a' || 'a' == 'a"] } } }
  expect_failures = [var.accounts]
}

run "refuses_an_owner" {
  command = plan
  variables { accounts = { release = { description = "", refs = ["refs/heads/main"], project_roles = ["roles/owner"] } } }
  expect_failures = [var.accounts]
}
