//! Trees as JSON, for Graphviz, and as a page.

use socratiq::agents::planning::{Evaluation, Gumbel, Leaf, Tree};

/// A tree over 2⁶ paths with a masked action and labels that need escaping.
fn tree() -> Tree {
    let state = |path: &[u32]| {
        let sum = f64::from(path.iter().sum::<u32>());
        Evaluation {
            candidates: vec![(0, 0.1 + sum / 7.0), (1, -0.3), (5, f64::NEG_INFINITY)],
            value: (sum * 0.37).sin(),
            reward: 1.0 / (3.0 + sum),
            discount: 0.9,
        }
    };
    let mut evaluator = |tree: &Tree, leaf: Leaf| {
        let mut path = tree.path(leaf.parent);
        path.push(leaf.action);
        Ok(state(&path))
    };
    let gumbel = Gumbel {
        num_simulations: 60,
        ..Gumbel::default()
    };
    gumbel
        .search(&state(&[]), &[0.0; 3], &mut evaluator, &|| false)
        .unwrap()
}

fn label(action: u32) -> String {
    [
        "a \"quoted\" </script><b>",
        " back\\slash\n",
        "",
        "",
        "",
        "never",
    ][action as usize]
        .to_owned()
}

#[test]
fn json_gives_the_same_tree() {
    let tree = tree();
    assert!(tree.len() > 30);
    let text = serde_json::to_string(&tree).unwrap();
    let again: Tree = serde_json::from_str(&text).unwrap();
    assert_eq!(tree, again);
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
    for (broken, expected) in [
        (text.replacen("[0,0]", "[900,0]", 1), "an earlier one"),
        (text.replacen("[0,0]", "[0,7]", 1), "not there or taken"),
        (text.replacen("\"visits\"", "\"visit\"", 1), "unknown field"),
        ("{\"nodes\":[]}".to_owned(), "a tree has a root"),
    ] {
        let error = serde_json::from_str::<Tree>(&broken).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn dot_has_every_node_and_edge_and_escapes_labels() {
    let tree = tree();
    let dot = tree.to_dot(&label);
    assert!(dot.starts_with("digraph {"));
    assert_eq!(dot.matches("visits ").count(), tree.len());
    assert_eq!(dot.matches(" -> ").count(), tree.len() - 1);
    assert!(dot.contains(r#"a·\"quoted\"·</script>"#), "{dot}");
    assert!(dot.contains(r"·back\\slash↵"), "{dot}");
    assert!(!dot.contains("never"), "a masked action has no node");
}

#[test]
fn the_page_holds_its_tree_and_needs_nothing_else() {
    let tree = tree();
    let page = tree.to_html("A <tree>", &label);
    let data = page.split("const data = ").nth(1).unwrap();
    let data = data.split(";\nconst nodes").next().unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let again: Tree = serde_json::from_value(data["tree"].clone()).unwrap();
    assert_eq!(tree, again);
    assert_eq!(data["labels"]["0"], label(0));
    assert_eq!(
        page.matches("</script>").count(),
        1,
        "a label cannot end the script"
    );
    for elsewhere in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
}
