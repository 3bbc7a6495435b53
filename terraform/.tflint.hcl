# tflint --chdir terraform --recursive --config "$PWD/terraform/.tflint.hcl"
plugin "terraform" {
  enabled = true
  preset  = "all"
}

# a module is one noun, and its files are named for what stands in them
rule "terraform_standard_module_structure" {
  enabled = false
}
